"""`cse data` and its functions, each against a slow loop over the rows or the oracle."""

import hashlib
import json
import random
from itertools import combinations

import numpy as np
import pytest

from cse import Pairs, ScoredPairs, Texts, Triplets, UserError, cli
from cse.data import dedup, mix, open_rows, split, stats
from cse.data.reading.texts import same_text_key as key
from cse.data.tools.curation import Entries, curate, keep_probability, threshold
from cse.data.tools.deduplication import first_of_near, jaccard, shingles
from cse.files import sha256_file
from tests.cases import cases, load
from tests.conftest import WORDS


def lines(path):
    """The records of a .jsonl file, without nulls."""
    records = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [{name: value for name, value in record.items() if value is not None} for record in records]


def sentences(count, seed=0, words=6):
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=words)) for _ in range(count)]


# Opening
INFERENCE = [("a", "b", 0), ("a", "c", 2), ("d", "e", 0), ("d", "f", 2)]
OPENED = [  # the columns of rows, the rows, and the class that fits
    (None, ["one", "two"], Texts),
    (None, [("a", "b"), ("c", "d")], Pairs),
    (None, [("a", "b", "x"), ("c", "d", "y")], Triplets),
    (("text", "label"), [("a", "x"), ("b", "y")], Texts),
    (("query", "pos"), [("a", ["b"]), ("c", ["d"])], Pairs),
    (("query", "pos", "neg"), [("a", ["b"], ["x", "y"]), ("c", ["d"], ["z"])], Triplets),
    (("anchor", "positive", "negative_1"), [("a", "b", "c"), ("d", "e")], Triplets),
    (("sentence1", "sentence2", "score"), [("a", "b", 3.5), ("c", "d", 1)], ScoredPairs),
    (("sentence1", "sentence2", "label"), [("a", "b", 1), ("c", "d", 0)], ScoredPairs),
    (("premise", "hypothesis", "label"), INFERENCE, Triplets),
    (
        ("sentence1", "sentence2", "gold_label"),
        [(*r[:2], {0: "entailment", 2: "contradiction"}[r[2]]) for r in INFERENCE],
        Triplets,
    ),
    (("premise", "entailment", "contradiction", "score"), [("a", "b", "c", 1), ("d", "e")], Triplets),
]


@pytest.mark.parametrize(("columns", "rows", "kind"), OPENED)
def test_rows_are_opened_by_the_class_that_fits_their_columns(columns, rows, kind):
    given = [dict(zip(columns, row, strict=False)) for row in rows] if columns else rows
    assert type(open_rows(given)) is kind


def test_a_named_class_and_named_columns_are_taken_as_they_are(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text(
        '{"anchor": "a", "positive": "b", "negative": "c"}\n{"anchor": "d", "positive": "e", "negative": "f"}'
    )
    assert [e.texts for e in open_rows(path, kind="Pairs")] == [("a", "b"), ("d", "e")]
    assert [e.texts for e in open_rows(path, columns=["negative"])] == [("c",), ("f",)]
    assert [e.texts for e in open_rows(path, columns=["positive", "anchor"])] == [("b", "a"), ("e", "d")]


# Writing
@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
@pytest.mark.parametrize(
    "rows",
    [
        [("a", "b", "n"), ("c", "d", "m"), ("e", "f", "o")],
        ["one", "two", "naïve 東京", "with\ttab"],
        [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}, {"text": "c", "label": "x"}],
        [{"sentence1": f"a{i}", "sentence2": f"b{i}", "score": s} for i, s in enumerate((0.1, 3.8, 4.75, 0.3))],
        [{"query": "a", "pos": ["b"], "neg": ["x", "y"]}, {"query": "c", "pos": ["d"], "neg": ["z"]}],
    ],
)
def test_what_is_written_is_read_back_as_the_same_rows(rows, suffix, tmp_path):
    out = tmp_path / f"out.{suffix}"
    first = open_rows(rows)
    manifest = dedup(first, out=out)
    again = open_rows(out)
    assert type(again) is type(first)
    assert [(e.texts, e.label) for e in again] == [(e.texts, e.label) for e in first]
    assert again.label_names == first.label_names
    assert (first.scores() is None) == (again.scores() is None)
    if first.scores() is not None:
        assert again.scores().tolist() == first.scores().tolist() == [row["score"] for row in rows]
    assert manifest["out"] == [{"path": out.name, "sha256": hashlib.sha256(out.read_bytes()).hexdigest()}]
    assert manifest["sources"][0]["sha256"] == first.hash
    assert json.loads(out.with_suffix(".json").read_text()) == manifest


# Split
def test_no_text_is_in_two_parts_and_every_row_is_in_one(tmp_path):
    rng, pool = random.Random(1), sentences(300, words=5)
    rows = [
        (f"{pool[i]} {i // 2}", pool[(7 * i) % 300].upper(), rng.choice(pool), rng.choice(pool)) for i in range(300)
    ]
    data = Triplets(rows, columns=("anchor", "positive", "negative_1", "negative_2"))
    manifest = split(data, out=tmp_path / "s.jsonl", dev=0.1, test=0.2, seed=3)
    parts = {name: lines(tmp_path / f"s-{name}.jsonl") for name in ("train", "dev", "test")}
    seen = {name: {key(t) for row in part for t in row.values()} for name, part in parts.items()}
    for a, b in combinations(parts, 2):
        assert not seen[a] & seen[b]
    written = [(row["anchor"], row["positive"]) for part in parts.values() for row in part]
    assert sorted(written) == sorted(e.texts[:2] for e in data)
    negatives = sum(len(row) - 2 for part in parts.values() for row in part)
    counts = manifest["counts"]
    assert counts["negatives"] == sum(len(e.texts) - 2 for e in data) - negatives > 0
    assert {name: len(part) for name, part in parts.items()} == {name: counts[name] for name in parts}
    assert 0 < counts["dev"] <= round(0.1 * len(data))
    assert 0 < counts["test"] <= round(0.2 * len(data))
    assert any(len(row) > 2 for row in parts["dev"])  # negatives that are texts of no other part stay


# Deduplication
def test_exact_repetitions_and_evaluation_texts_by_a_slow_loop(tmp_path):
    rng, pool = random.Random(2), sentences(30, words=2)
    rows = list(dict.fromkeys((rng.choice(pool).title(), rng.choice(pool) + rng.choice(["", "!"])) for _ in range(400)))
    held = {"one": [(pool[0], pool[1].upper())], "two": [(pool[1],), ("nowhere to be found",)]}
    manifest = dedup(Pairs(rows[:200]), Pairs(rows[200:]), out=tmp_path / "d.jsonl", against=held)
    known, want = set(), []
    dropped = {"evaluation_text": 0, "same": 0, "one": 0, "two": 0}
    for row in rows:
        keys = tuple(map(key, row))
        hit = [name for name, each in held.items() if {key(t) for r in each for t in r} & set(keys)]
        for name in hit:
            dropped[name] += 1
        if hit:
            dropped["evaluation_text"] += 1
        elif keys in known:
            dropped["same"] += 1
        else:
            known.add(keys)
            want.append({"anchor": row[0], "positive": row[1]})
    assert lines(tmp_path / "d.jsonl") == want
    counts = manifest["counts"]
    assert (counts["evaluation_text"], counts["same"]) == (dropped["evaluation_text"], dropped["same"])
    assert counts["against"] == {"one": dropped["one"], "two": dropped["two"]}
    assert min(dropped.values()) > 0
    assert counts["read"] == len(rows) == counts["written"] + counts["evaluation_text"] + counts["same"]


def test_shingles_and_jaccard_by_pencil():
    assert shingles(["Abcd, efg"]) == {b"0 abcde", b"0 bcdef", b"0 cdefg"}
    assert shingles(["ab", "ab"]) == {b"0 ab", b"1 ab"}
    assert jaccard(shingles(["abcdefg"]), shingles(["abcdefgh"])) == 3 / 4


@pytest.mark.parametrize("threshold", [0.5, 0.9])
def test_near_duplicates_are_those_of_all_comparisons(threshold):
    pytest.importorskip("datasketch")
    rng, rows = random.Random(4), []
    for text in sentences(40, seed=6, words=9):
        words = text.split()
        rows.append((text,))
        for _ in range(2):
            words[rng.randrange(9)] = rng.choice(WORDS)
            rows.append((" ".join(words),))
    kept: list[int] = []
    for i, row in enumerate(rows):
        if all(jaccard(shingles(row), shingles(rows[j])) < threshold for j in kept):
            kept.append(i)
    found = first_of_near(rows, threshold)
    assert [i for i, keep in enumerate(found) if keep] == kept
    assert len(kept) < len(rows)


def test_dedup_leaves_out_near_duplicates_after_the_exact_ones(tmp_path):
    pytest.importorskip("datasketch")
    rows = [
        "the quick brown fox jumps over the dog",
        "The quick brown fox jumps over the dog!",
        "a plain other sentence",
    ]
    rows.append("the quick brown fox jumps over the dogs")
    counts = dedup(Texts(rows), out=tmp_path / "d.jsonl", near=0.9)["counts"]
    assert (counts["same"], counts["near"], counts["written"]) == (1, 1, 2)
    assert [row["text"] for row in lines(tmp_path / "d.jsonl")] == [rows[0], rows[2]]


# Mix
def test_a_mix_has_the_shares_that_were_asked(tmp_path):
    for name, count in (("a", 30), ("b", 60)):
        (tmp_path / f"{name}.txt").write_text("\n".join(f"{name} {i}" for i in range(count)))
    a, b = (Texts(tmp_path / f"{name}.txt") for name in "ab")
    mix(a, b, out=tmp_path / "m.jsonl", shares=[2, 1], seed=1)
    rows = lines(tmp_path / "m.jsonl")
    assert len(rows) == 45  # all 30 of the first, and half as many
    assert sum(row["source"].endswith("a.txt") for row in rows) == 30
    assert len({row["text"] for row in rows}) == 45
    assert all(row["text"][0] == row["source"][-5] for row in rows)
    assert [row["source"] for row in rows] != sorted(row["source"] for row in rows)
    mix(a, b, out=tmp_path / "all.jsonl")
    assert sorted(row["text"] for row in lines(tmp_path / "all.jsonl")) == sorted(e.texts[0] for d in (a, b) for e in d)
    counts = mix(a, b, out=tmp_path / "few.parquet", shares=[1, 1], rows=7)["counts"]
    assert sorted(each["rows"] for each in counts["by_source"]) == [3, 4]
    mix(a, b, out=tmp_path / "again.jsonl", shares=[2, 1], seed=1)
    assert sha256_file(tmp_path / "again.jsonl") == sha256_file(tmp_path / "m.jsonl")


# Counts and commands
def test_stats_of_labels_and_scores_by_pencil():
    """What they say of texts is in test_hygiene.py."""
    report = stats(open_rows([{"text": t, "label": x} for t, x in (("a b", "x"), ("A b!", "x"), ("c d e", "y"))]))
    assert (report["class"], report["labels"]) == ("Texts", {"x": 2, "y": 1})
    assert "tokens" not in report
    scored = [{"sentence1": "a", "sentence2": "b", "score": 1}, {"sentence1": "c", "sentence2": "d", "score": 4}]
    assert stats(open_rows(scored))["scores"] == {"min": 1.0, "mean": 2.5, "max": 4.0}


def test_the_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = ["anchor\tpositive"] + [f"{t} {i}\tother {t} {i}" for i, t in enumerate(sentences(20))]
    (tmp_path / "p.tsv").write_text("\n".join(rows))
    assert cli.main(["data", "show", "p.tsv", "--rows", "1"]) == 0
    shown = capsys.readouterr().out
    assert "anchor = anchor, positive = positive" in shown
    assert shown.count("row 1") == 2
    assert cli.main(["data", "stats", "p.tsv", "--out", "s.json", "--against", "sts-mini-dev", "p.tsv"]) == 0
    assert "40; 40 distinct" in capsys.readouterr().out
    report = json.loads((tmp_path / "s.json").read_text())[0]
    assert report["overlap"]["p.tsv"]["shared_pairs"] == 20
    assert cli.main(["data", "stats", "p.tsv", "s.json", "--page", "s.html"]) == 2
    assert not (tmp_path / "s.html").exists()
    assert cli.main(["data", "stats", "p.tsv", "--against", "p.tsv", "--page", "s.html"]) == 0
    page = (tmp_path / "s.html").read_text()
    assert "<h3>p.tsv</h3>" in page
    assert "<td>40 of 40</td><td>20 of 20</td>" in page  # texts and pairs that p.tsv shares with itself
    assert cli.main(["data", "split", "p.tsv", "--dev", "0.2", "--out", "s.jsonl"]) == 0
    assert cli.main(["data", "dedup", "p.tsv", "--against", "s-dev.jsonl", "--out", "d.jsonl"]) == 0
    assert "against    s-dev.jsonl: 4 rows" in capsys.readouterr().out
    assert lines(tmp_path / "d.jsonl") == lines(tmp_path / "s-train.jsonl")
    assert cli.main(["data", "mix", "s-dev.jsonl", "s-train.jsonl", "--out", "m.parquet"]) == 0
    assert "written    20" in capsys.readouterr().out
    assert {e.texts for e in Pairs("m.parquet")} == {e.texts for e in Pairs("p.tsv")}


@pytest.mark.parametrize("name", cases("curation", has="t"))
def test_every_case_of_the_oracle(name):
    about, data = load("curation", name)
    entries, counts = Entries(data["entries"].tolist()), data["counts"].numpy()
    found = [entries.found([text]) for text in data["texts"].tolist()]
    assert found == [np.flatnonzero(row).tolist() for row in data["matched"]]
    chances = [keep_probability(row, counts, about["t"]) for row in found]
    assert chances == pytest.approx(data["keep_probability"].tolist())
    assert sum(chances) == pytest.approx(about["expected_kept"])
    for entry in np.flatnonzero(counts):
        assert keep_probability([entry], counts, about["t"]) == pytest.approx(data["entry_probability"][entry].item())
    assert {share: threshold(counts, float(share)) for share in about["t_of_share"]} == about["t_of_share"]


def test_entries_by_pencil():
    entries = Entries(["cat", "St. Louis", "the cat", "cat", ""])
    assert len(entries) == 3
    assert entries.found(["He lives in St. Louis."]) == [1]
    assert entries.found(["the cat, and the dog", "in St. Louis"]) == [0, 1, 2]
    assert entries.found(["concatenate The Cat"]) == []
    counts = np.array([4, 2, 1])
    assert keep_probability([0, 1], counts, 1) == pytest.approx(1 - 3 / 4 * 1 / 2)
    assert keep_probability([0, 2], counts, 1) == 1
    assert keep_probability([], counts, 1) == 0


def rows(path):
    return [json.loads(line)["text"] for line in path.read_text().splitlines()]


def test_rows_are_drawn_by_seed_and_number(tmp_path):
    texts = [f"the cat {i}" for i in range(400)] + [f"a dog {i}" for i in range(10)] + ["no match"]
    out = tmp_path / "c.jsonl"

    def kept(**options):
        manifest = curate(Texts(texts), out=out, entries=["cat", "dog", "cow"], **options)
        assert manifest["counts"]["written"] == len(rows(out))
        return rows(out), manifest

    first, manifest = kept(t=40, seed=1)
    assert kept(t=40, seed=1)[0] == first
    assert kept(t=40, seed=2)[0] != first
    assert first == [text for text in texts if text in set(first)]  # in their order
    assert set(texts[400:410]) < set(first)  # all with a rare entry
    assert 25 <= len(first) - 10 <= 58  # 40 of 400, within three standard deviations
    assert manifest["counts"] | {"written": 0} == {
        "read": 411, "matched": 410, "written": 0, "entries": 3, "entries_found": 2,
    }  # fmt: skip
    assert manifest["settings"]["tail"] == pytest.approx(10 / 410)
    assert kept(t=400)[0] == texts[:410]  # at least the largest count keeps every match


def test_nothing_left_harms_nothing(tmp_path):
    out = tmp_path / "c.jsonl"
    out.write_text("kept")
    with pytest.raises(UserError, match="no row of 2 is left: 0 have one of the 1 entries"):
        curate(Texts(["one text", "another"]), out=out, entries=["cow"], t=1)
    assert out.read_text() == "kept"
