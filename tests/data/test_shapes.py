"""Data as people have them: every shape and kind of file is recognized, read as the rows by pencil, and said so."""

import gzip
import json
import pickle
from functools import partial
from pathlib import Path

import pytest

from cse import Pairs, ScoredPairs, Texts, Triplets, UserError
from cse.data.reading.sources import column_names
from tests.refusals import refuses

FLAG = [
    {"query": "q1", "pos": ["p1", "p2"], "neg": ["n1", "n2", "n3"]},
    {"query": "q2", "pos": ["p3"], "neg": []},
    {"query": "q3", "pos": [], "neg": ["n4"]},
    {"query": "q4", "pos": ["p4", " "], "neg": ["", "n5"]},
]
TEVATRON = [
    {
        "query_id": "1",
        "query": "q1",
        "positive_passages": [{"docid": "a", "title": "T", "text": "p1"}, {"docid": "b", "title": "", "text": "p2"}],
        "negative_passages": [{"docid": "c", "title": "U", "text": "n1"}],
    },
    {
        "query_id": "2",
        "query": "q2",
        "positive_passages": [{"docid": "d", "text": "p3"}],
        "negative_passages": [{"docid": "e", "text": "n2"}, {"docid": "f", "text": "n3"}],
    },
]
NLI = [
    ("p1", "e1", "entailment"),
    ("p2", "e2", "entailment"),
    ("p1", "n1", "neutral"),
    ("p1", "c1", "contradiction"),
    ("p1", "e3", "entailment"),
    ("p3", "c2", "contradiction"),
    ("p3", "e4", "entailment"),
    ("p3", "c3", "contradiction"),
    ("p1", "x", "-"),
]
OF_NLI = [("p1", "e1", "c1"), ("p1", "e3", "c1"), ("p3", "e4", "c2")]


def rows(data):
    return [example.texts for example in data]


def jsonl(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def nli(labels=None):
    return [{"premise": p, "hypothesis": h, "label": labels[c] if labels else c} for p, h, c in NLI]


def parquet(path, records):
    import pyarrow
    from pyarrow.parquet import write_table

    write_table(pyarrow.Table.from_pylist(records), path)
    return path


@pytest.fixture(params=["dicts", "pandas", "polars", "arrow", "datasets", "jsonl", "parquet"])
def given(request, tmp_path):
    """Gives records as one of these kinds."""
    import datasets
    import pandas
    import polars
    import pyarrow

    kinds = {
        "dicts": list,
        "pandas": pandas.DataFrame,
        "polars": polars.DataFrame,
        "arrow": pyarrow.Table.from_pylist,
        "datasets": datasets.Dataset.from_list,
        "jsonl": partial(jsonl, tmp_path / "rows.jsonl"),
        "parquet": partial(parquet, tmp_path / "rows.parquet"),
    }
    return kinds[request.param]


# Lists in cells
def test_lists_of_positives_and_negatives(given):
    data = Triplets(given(FLAG))
    assert rows(data) == [
        ("q1", "p1", "n1", "n2", "n3"),
        ("q1", "p2", "n1", "n2", "n3"),
        ("q2", "p3"),
        ("q4", "p4", "n5"),
    ]
    assert data.ragged
    assert data.report == {"blank": 0, "duplicate": 0, "missing": 2, "no_positive": 1}
    assert data.understood == "anchor = query, positive = pos, negatives = neg"
    named = Triplets(given(FLAG), columns=("query", "pos", "neg"))
    assert (rows(named), named.understood) == (rows(data), "")
    pairs = Pairs(given(FLAG))
    assert rows(pairs) == [texts[:2] for texts in rows(data)]
    assert pairs.understood == "anchor = query, positive = pos; not used: neg"


def test_lists_of_documents(given):
    data = Triplets(given(TEVATRON))
    assert rows(data) == [("q1", "T p1", "U n1"), ("q1", "p2", "U n1"), ("q2", "p3", "n2", "n3")]


def test_rows_with_lists_are_saved_for_a_resumed_run(tmp_path):
    for number, (records, kind) in enumerate([(FLAG, Triplets), (TEVATRON, Pairs), (nli(), Triplets)]):
        data = kind(records)
        data.save_source(tmp_path / f"{number}.parquet")
        again = kind(tmp_path / f"{number}.parquet")
        assert (again.hash, again.report) == (data.hash, data.report)


# Rows with a label
@pytest.mark.parametrize("labels", [None, {"entailment": 0, "neutral": 1, "contradiction": 2, "-": -1}])
def test_inference_rows_are_grouped_by_premise(given, labels):
    data = Triplets(given(nli(labels)))
    assert rows(data) == OF_NLI
    assert data.report == {"blank": 0, "duplicate": 0, "missing": 0, "neutral": 1, "no_label": 1, "unpaired": 2}
    assert "negative = where it is contradiction" in data.understood
    pairs = Pairs(given(nli(labels)))
    assert sorted(rows(pairs)) == [("p1", "e1"), ("p1", "e3"), ("p2", "e2"), ("p3", "e4")]


def test_inference_by_other_names(tmp_path):
    records = [{"gold_label": c, "sentence1": p, "sentence2": h} for p, h, c in NLI]
    assert rows(Triplets(jsonl(tmp_path / "snli.jsonl", records))) == OF_NLI
    assert len(Pairs(tmp_path / "snli.jsonl")) == len(NLI)  # sentence1 and sentence2 are pairs, as ever


def test_labeled_texts(given):
    data = Texts(given([{"text": "a", "label": "x"}, {"text": "b", "label": "y"}, {"text": "c", "label": "x"}]))
    assert data.understood == "text = text; not used: label"
    assert data[0].label is None
    labeled = Texts(given([{"text": t, "label": c} for t, c in zip("abc", "xyx", strict=True)]), label_column="label")
    assert [example.label for example in labeled] == [0, 1, 0]
    assert labeled.label_names == ["x", "y"]
    assert labeled.labels().tolist() == [0, 1, 0]
    assert labeled.remarks == {"label that occurs once": 1}


# Parallel texts and names in use
def test_translations(given):
    data = Pairs(given([{"translation": {"en": "a", "de": "b"}}, {"translation": {"en": "c", "de": "d"}}]))
    assert rows(data) == [("a", "b"), ("c", "d")]
    assert data.understood == "anchor = translation.en, positive = translation.de"
    three = given(
        [{"translation": {"en": "a", "de": "b", "fr": "c"}}, {"translation": {"en": "x", "de": "y", "fr": "z"}}]
    )
    refuses(r"(?s)texts in 3 languages: .*fix: name two of them", Pairs, three)
    assert rows(Pairs(three, columns=("translation.fr", "translation.en"))) == [("c", "a"), ("z", "x")]


@pytest.mark.parametrize(
    ("kind", "names", "said"),
    [
        (Texts, ["sentence"], "text = sentence"),
        (Pairs, ["sentence_A", "sentence_B"], "anchor = sentence_A, positive = sentence_B"),
        (Pairs, ["anchor", "positive"], "anchor = anchor, positive = positive"),
        (Pairs, ["question", "answer"], "anchor = question, positive = answer"),
        (Pairs, ["premise", "hypothesis"], "anchor = premise, positive = hypothesis"),
        (Triplets, ["anchor", "positive", "negative"], "anchor = anchor, positive = positive, negatives = negative"),
        (Triplets, ["anchor", "positive", "negative_1", "negative_2"], "negatives = negative_1, negative_2"),
        (Triplets, ["sent0", "sent1", "hard_neg"], "anchor = sent0, positive = sent1, negatives = hard_neg"),
        (ScoredPairs, ["sentence1", "sentence2", "score"], "anchor = sentence1, positive = sentence2, score = score"),
        (ScoredPairs, ["sentence1", "sentence2", "similarity"], "score = similarity"),
        (ScoredPairs, ["text1", "text2", "label"], "score = label"),
    ],
)
def test_names_in_use(kind, names, said):
    cells = [("a", "b", 0.5), ("e", "f", 1.0)] if kind is ScoredPairs else ["abcd", "efgh"]
    data = kind([dict(zip(names, row, strict=False)) for row in cells])
    assert said in data.understood
    texts = 2 if kind is ScoredPairs else len(names)
    assert rows(data) == [tuple(row[:texts]) for row in cells]


# Shards, patterns, folders
@pytest.mark.parametrize("where", ["{}", "{}/*.jsonl", "{}/part-?.jsonl"])
def test_shards_are_read_in_the_order_of_their_names(tmp_path, where):
    for number in (2, 0, 1):
        jsonl(tmp_path / f"part-{number}.jsonl", [{"text": f"{number} {i}"} for i in range(2)])
    (tmp_path / "README.md").write_text("not data")
    assert [texts[0] for texts in rows(Texts(where.format(tmp_path)))] == ["0 0", "0 1", "1 0", "1 1", "2 0", "2 1"]


def beir(folder, *, qrels="q1\td1\t1\nq1\td2\t0\nq2\td3\t2\nq2\td9\t1\n"):
    (folder / "qrels").mkdir(parents=True)
    texts = [("d1", "T", "one"), ("d2", "", "two"), ("d3", "U", "three")]
    jsonl(folder / "corpus.jsonl", [{"_id": i, "title": title, "text": text} for i, title, text in texts])
    jsonl(folder / "queries.jsonl", [{"_id": "q1", "text": "first"}, {"_id": "q2", "text": "second"}])
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n" + qrels)
    return folder


def test_a_folder_of_beir(tmp_path):
    data = Pairs(beir(tmp_path / "beir"))
    assert rows(data) == [("first", "T one"), ("second", "U three")]
    assert data.report == {"blank": 0, "duplicate": 0, "missing": 0, "not_relevant": 1, "unknown_id": 1}
    graded = Pairs(tmp_path / "beir", columns=("query", "document"), relevance_columns=["score"])
    assert [example.relevance for example in graded] == [(1.0,), (2.0,)]
    assert [texts[0] for texts in rows(Texts(tmp_path / "beir"))] == ["T one", "U three"]


# The Hub
def test_a_file_of_a_revision(monkeypatch, tmp_path):
    import huggingface_hub

    asked = []

    def download(repo, file, **options):
        asked.append((repo, file, options["revision"]))
        return str(jsonl(tmp_path / "a.jsonl", [{"text": "a"}, {"text": "b"}]))

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr("cse.assets.hub.reachable", lambda: True)
    assert len(Texts("org/name:data/a.jsonl@v2")) == 2
    assert asked == [("org/name", "data/a.jsonl", "v2")]


# On disk
def test_a_second_start_reads_no_row(tmp_path, monkeypatch):
    path = jsonl(tmp_path / "a.jsonl", [{"text": f"text {i}"} for i in range(50)])
    first = Texts(path)
    monkeypatch.setattr("cse.data.reading.columns.kept_rows", None)
    monkeypatch.setattr("cse.data.datasets.kept_rows", lambda *_: pytest.fail("rows were read"))
    again = Texts(path)
    assert (again.hash, again.report, list(again)) == (first.hash, first.report, list(first))
    moved = path.rename(tmp_path / "b.jsonl")
    assert Texts(moved).hash == first.hash  # known by its content


def test_a_changed_file_is_read_again(tmp_path):
    import os

    path = jsonl(tmp_path / "a.jsonl", [{"text": "one"}, {"text": "two"}])
    Texts(path)
    before = path.stat()
    jsonl(path, [{"text": "one"}, {"text": "TWO"}])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert rows(Texts(path)) == [("one",), ("TWO",)]


def test_rows_travel_to_another_process_as_a_path(tmp_path):
    data = ScoredPairs([("a", "b", 3), ("c", "d", 5)], max_score=5)
    packed = pickle.dumps(data._rows)
    assert len(packed) < 1000
    assert pickle.loads(packed).values(0) == {"score": 0.6}


def test_blocks_join(monkeypatch, tmp_path):
    records = [{"text": f"text {i % 40}"} for i in range(100)]
    whole = Texts(records)
    monkeypatch.setattr("cse.data.reading.store.BLOCK", 7)
    monkeypatch.setenv("CSE_CACHE", str(tmp_path))
    parts = Texts(records)
    assert (parts.hash, parts.report, list(parts)) == (whole.hash, whole.report, list(whole))
    assert [e.texts for e in Texts(records, limit=15)] == rows(whole)[:15]
    assert list(parts.texts()) == [text for (text,) in rows(parts)]


ROWS = [("one two", "eins zwei"), ("three", "drei"), ("four", "vier")]


def write(folder, name, *, rows=ROWS):
    """The rows as the name says, packed where it ends in .gz."""
    path, plain = folder / name, name.removesuffix(".gz")
    if plain.endswith(".parquet"):
        import pyarrow
        from pyarrow.parquet import write_table

        buffer = pyarrow.BufferOutputStream()
        write_table(pyarrow.table({"a": [a for a, _ in rows], "b": [b for _, b in rows]}), buffer)
        raw = buffer.getvalue().to_pybytes()
    else:
        line = {
            ".txt": lambda a, b: a,
            ".csv": lambda a, b: f'"{a}",{b}',
            ".tsv": lambda a, b: f"{a}\t{b}",
            ".jsonl": lambda a, b: f'{{"a": "{a}", "b": "{b}"}}',
        }[plain[plain.rindex(".") :]]
        head = {".csv": "a,b\n", ".tsv": "a\tb\n"}.get(plain[-4:], "")
        raw = (head + "\n".join(line(a, b) for a, b in rows) + "\n").encode()
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return str(path)


@pytest.mark.parametrize("packed", ["", ".gz", ".GZ"])
@pytest.mark.parametrize("kind", ["txt", "csv", "tsv", "jsonl", "parquet"])
def test_every_kind_plain_and_packed(tmp_path, kind, packed):
    path = str(Path(write(tmp_path, f"my.{kind}{packed.lower()}")).rename(tmp_path / f"my.{kind}{packed}"))
    if kind == "txt":
        assert [e.texts[0] for e in Texts(path)] == [a for a, _ in ROWS]
        assert column_names(path) == []
    else:
        assert [e.texts for e in Pairs(path, columns=("a", "b"))] == ROWS
        assert column_names(path) == ["a", "b"]


def test_columns_are_checked_though_a_blank_line_comes_first(tmp_path):
    (tmp_path / "my.jsonl").write_text('\n{"a": "x", "c": "y"}\n{"a": "z"}\n')
    refuses(r"(?s)no column 'b'.*'a', 'c'", Pairs, str(tmp_path / "my.jsonl"), columns=("a", "b"))
    assert column_names(str(tmp_path / "my.jsonl")) == ["a", "c"]


# Streams
@pytest.fixture
def hub(monkeypatch):
    """A data set of a million rows on a Hub that counts what is fetched and may break off."""
    import datasets

    class Hub:
        fetched = 0
        breaks_at = 10**9

        def rows(self):
            for i in range(10**6):
                if i >= self.breaks_at:
                    raise ConnectionError("the line is dead")
                self.fetched = i + 1
                yield {"text": f"row {i}", "id": i}

    hub = Hub()

    def load_dataset(name, split, streaming=False):
        assert (name, split, streaming) == ("org/name", "train", True)
        return datasets.IterableDataset.from_generator(hub.rows)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return hub


def test_a_stream_is_read_no_farther_than_the_limit(hub):
    dataset = Texts("stream:org/name", limit=5)
    assert [e.texts[0] for e in dataset] == [f"row {i}" for i in range(5)]
    assert hub.fetched <= 6
    assert dataset.name == "stream:org/name"


def test_a_stream_says_its_columns(hub):
    assert column_names("stream:org/name") == ["text", "id"]
    with pytest.raises(UserError, match=r"(?s)stream:org/name has no column 'sentence'.*'text', 'id'"):
        Texts("stream:org/name", column="sentence", limit=5)


def test_a_stream_that_breaks_off_is_no_data_set(hub):
    hub.breaks_at = 3
    refuses(r"stream:org/name cannot be loaded.* the Hub cannot be reached", Texts, "stream:org/name", limit=5)
