"""None"""

import csv
import hashlib
import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import cse.evaluation as harness
from cse import assets
from cse.data.reading.texts import same_text_key
from cse.evaluation.evaluators import paraphrases, sts_rows
from cse.evaluation.evaluators.pairs import fit_thresholds
from cse.evaluation.evaluators.paraphrases import judge, mine_pairs
from cse.evaluation.evaluators.sts_rows import Missing
from tests.refusals import refuses

DEV = "STSB-dev"


def load(folder, task=DEV, check=False):
    return sts_rows.load(sts_rows.tasks()[task], str(folder), check=check)


def test_tsv_is_read_as_it_stands(write_task):
    rows = [("4.5", 'He said "no', "“quoted”\u2028text"), ("0", " a  b ", "c")]
    found = load(write_task(rows)).subsets["dev"]
    assert found.first == ('He said "no', " a  b ")
    assert found.second == ("“quoted”\u2028text", "c")
    assert found.gold.tolist() == [4.5, 0]


def test_hash_is_of_the_rows(write_task):
    rows = [("4.50", "a", "b"), ("1", "c", "d")]
    wanted = hashlib.sha256(b"4.5\ta\tb\n1.0\tc\td\n").hexdigest()
    assert load(write_task(rows)).source.sha256 == wanted


def test_says_which_text_was_scored(write_task):
    forms = {"A man, a plan.": "raw", "a man , a plan .": "tokenized", "no stops": "raw", "3.5 , 4.5 .": "tokenized"}
    assert {text: load(write_task([("1", text, "b")])).source.text for text in forms} == forms


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("1", "only one"), r"dev\.tsv:3: 2 tab-separated fields"),
        (("much", "a", "b"), r"dev\.tsv:3: the gold score 'much' is not a number"),
        (("nan", "a", "b"), r"dev\.tsv:3: the gold score 'nan' is not a number"),
        (("1", " ", "b"), r"dev\.tsv:3: a sentence is empty"),
    ],
)
def test_malformed_row_names_file_and_line(write_task, row, message):
    refuses(message, load, write_task([("1", "a", "b"), row]))


def test_files_that_are_not_the_known_set(write_task):
    folder = write_task([])
    for content, message in (
        (b"a\tb\tc\n", "header must read: score sentence1 sentence2"),
        (b"score\tsentence1\tsentence2\n1\t\xff\tb\n", "byte 28 is not UTF-8"),
        (b"score\tsentence1\tsentence2\n1\ta\tb\n7\tc\td\n", "gold score 7 of pair 2 lies outside 0 to 5"),
        (b"score\tsentence1\tsentence2\n1\ta\tb\n", "1 pairs with a gold score where 1500 are known"),
    ):
        (folder / "STSB" / "dev.tsv").write_bytes(content)
        refuses(message, load, folder, check=True)


def test_cse_data_comes_after_data(write_task, tmp_path, monkeypatch):
    monkeypatch.setenv("CSE_DATA", str(write_task([("1", "env", "b")])))
    task = sts_rows.tasks()[DEV]
    assert sts_rows.load(task, check=False).subsets["dev"].first == ("env",)
    (tmp_path / "empty").mkdir()
    assert sts_rows.load(task, str(tmp_path / "empty"), check=False).subsets["dev"].first == ("env",)


def test_senteval_files_that_do_not_match(tmp_path):
    base = tmp_path / "STS" / "STS13-en-test"
    base.mkdir(parents=True)
    for subset in ("FNWN", "headlines", "OnWN"):
        (base / f"STS.input.{subset}.txt").write_text("a\tb\nc\td\n")
        (base / f"STS.gs.{subset}.txt").write_text("1\n")
    refuses(r"has 2 lines and .* has 1", load, tmp_path, "STS13")


def test_hub_rows_have_no_subsets(monkeypatch):
    rows = {"score": [1.0] * 1500, "sentence1": ["a"] * 1500, "sentence2": ["b"] * 1500}
    monkeypatch.setattr(sts_rows, "_hub_rows", lambda path, revision, split: rows)
    found = sts_rows.load(sts_rows.tasks()["STS13"])
    assert list(found.subsets) == [sts_rows.POOLED]
    assert found.source.kind == "hub"
    assert found.source.where == "mteb/sts13-sts@7e90230a"
    refuses("1500 pairs with a gold score where 3750 are known", sts_rows.load, sts_rows.tasks()["STS14"])


def test_sickr_is_cut_out_of_the_hubs_joined_rows(monkeypatch):
    parts = {"train": 4500, "test": 4927, "dev": 500}
    names = [f"{split}{i}" for split, n in parts.items() for i in range(n)]
    rows = {"score": [1.5] * 9927, "sentence1": names, "sentence2": names}
    monkeypatch.setattr(sts_rows, "_hub_rows", lambda path, revision, split: rows)
    with pytest.raises(Missing, match="not in an order"):  # these are not SICK's own rows
        sts_rows.load(sts_rows.tasks()["SICKR"])

    def known(split):
        texts = [name for name in names if name.startswith(split)]
        return sts_rows.sha256({"": sts_rows.make_pairs([1.5] * len(texts), texts, texts, "test")})

    monkeypatch.setattr(sts_rows, "SICKR_HASHES", {split: known(split) for split in ("train", "dev")})
    found = sts_rows.load(sts_rows.tasks()["SICKR"]).subsets["test"]
    assert (found.first[0], found.first[-1], len(found)) == ("test0", "test4926", 4927)


@pytest.mark.slow
def test_real_sets_have_their_known_sizes_and_hashes(real_sts):
    for task in ("STS12", "STS13", "STSB-dev", "STSB-train", "SICKR-dev", "SICKR-train"):
        found = load(real_sts, task, check=True)
        assert sum(map(len, found.subsets.values())) == found.task.total
    for split, known in sts_rows.SICKR_HASHES.items():
        assert load(real_sts, f"SICKR-{split}").source.sha256 == known


def test_hub_snapshot_is_read(monkeypatch, tmp_path):
    (tmp_path / "test.jsonl").write_text('{"score": 2.5, "sentence1": "a", "sentence2": "b"}\n')
    monkeypatch.setattr(sts_rows, "snapshot", lambda path, kind, revision: tmp_path)
    found = sts_rows.load(sts_rows.tasks()["STSB"], check=False)
    assert (found.subsets["test"].first, found.subsets["test"].gold.tolist()) == (("a",), [2.5])


def test_the_seven_tasks_and_their_known_sizes():
    # SemEval's published numbers of pairs.
    sizes = {"STS12": 3108, "STS13": 1500, "STS14": 3750, "STS15": 3000, "STS16": 1186, "STSB": 1379, "SICKR": 4927}
    assert {task.name: task.total for task in sts_rows.resolve("sts")} == sizes
    assert {task.name: task.total for task in sts_rows.resolve("sts-dev")} == {"STSB-dev": 1500, "SICKR-dev": 500}


def test_every_task_says_what_it_is():
    for task in sts_rows.tasks().values():
        assert task.version >= 1
        assert task.license
        assert task.shipped or (task.senteval and len(task.hub["revision"]) == 40)


SPELLINGS = {
    "STSBenchmark": "STSB",
    "sts-b": "STSB",
    "STSB-test": "STSB",
    "SICK-R,SICKRelatedness": "SICKR",
    " STS12 , sts-dev,STS12": "STS12 STSB-dev SICKR-dev",
    "sts-mini": "sts-mini-dev sts-mini-test",
}


def test_spellings():
    assert {written: " ".join(task.name for task in sts_rows.resolve(written)) for written in SPELLINGS} == SPELLINGS
    for wrong, near in (("STS-12", "STS12"), ("SICKRR", "SICKR"), ("stsmini", "sts-mini")):
        refuses(f"unknown task '{wrong}'; the nearest is '{near}", sts_rows.resolve, wrong)


FOLDER = Path(harness.__file__).parent / "data"


def rows(split):
    with (FOLDER / f"sts-mini-{split}.tsv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def test_no_sentence_occurs_twice_within_or_across_the_splits():
    texts = [row[column].lower() for s in ("dev", "test") for row in rows(s) for column in ("sentence1", "sentence2")]
    assert [text for text, count in Counter(texts).items() if count > 1] == []


@pytest.mark.parametrize("asset", ["triplets-mini", "feedback-mini", "labels-mini", "edits-mini", "propositions-mini"])
def test_nothing_that_is_shipped_to_train_on_is_scored(asset):
    scored = {same_text_key(row[c]) for s in ("dev", "test") for row in rows(s) for c in ("sentence1", "sentence2")}
    shipped = assets.resolve(f"asset:{asset}").read_text(encoding="utf-8").splitlines()
    if assets.resolve(f"asset:{asset}").suffix == ".tsv":  # whose last columns are no texts
        count = {"triplets-mini": 3, "labels-mini": 1, "edits-mini": 5}[asset]
        texts = [text for line in shipped[1:] for text in line.split("\t")[:count] if text]
    else:
        texts = [json.loads(line)[key] for line in shipped for key in ("text_a", "text_b")]
    assert [text for text in texts if same_text_key(text) in scored] == []


def slow(similarity, positive, measure):
    """Try the middle between every two neighbors, from above."""
    values = sorted(set(similarity), reverse=True)
    best, where = -1.0, None
    for high, low in pairwise(values):
        found = measure(similarity >= (high + low) / 2, positive.astype(bool))
        if found > best:
            best, where = found, (high + low) / 2
    return where


def f1(predicted, positive):
    both = (predicted & positive).sum()
    return 2 * both / (predicted.sum() + positive.sum())


def accuracy(predicted, positive):
    return (predicted == positive).mean()


@pytest.mark.parametrize("seed", range(8))
def test_thresholds_against_every_cut(seed):
    rng = np.random.default_rng(seed)
    positive = (rng.random(60) < [0.1, 0.5, 0.9][seed % 3]).astype(float)
    positive[:2] = 0, 1
    similarity = np.round(rng.normal(size=60) + positive, 1 + seed % 2)  # with ties
    found = fit_thresholds(similarity, positive)
    assert found.f1 == pytest.approx(slow(similarity, positive, f1))
    assert found.accuracy == pytest.approx(slow(similarity, positive, accuracy))


def test_thresholds_by_pencil():
    # 0.9 + | 0.8 - | 0.6 + | 0.1 -: F1 is 2/3, 2/4, 4/5 at the three cuts; 3, 2 and 3 of 4 are correct
    found = fit_thresholds(np.array([0.1, 0.9, 0.6, 0.8]), np.array([0.0, 1.0, 1.0, 0.0]))
    assert found.f1 == pytest.approx(0.35)
    assert found.accuracy == pytest.approx(0.85)


def test_one_label_or_one_similarity_has_no_threshold():
    refuses(r"all 3 rows .* same label", fit_thresholds, np.arange(3.0), np.ones(3))
    refuses(r"all 2 pairs the same similarity, 0.5", fit_thresholds, np.full(2, 0.5), np.array([0.0, 1.0]))


def unit(n, dim, seed):
    vectors = np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def every_pair(vectors):
    n = len(vectors)
    similarity = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    return sorted(((similarity[i, j], i * n + j) for i in range(n) for j in range(i + 1, n)), reverse=True)


def test_mined_pairs_are_the_nearest_of_all(monkeypatch):
    monkeypatch.setattr(paraphrases, "CHUNK", 7)
    vectors = unit(40, 5, 0)
    found = mine_pairs(vectors, vectors, neighbors=39, keep=10_000)
    wanted = every_pair(vectors)
    assert len(found.key) == len(wanted) == 40 * 39 // 2
    assert found.key.tolist() == [key for _, key in wanted]
    np.testing.assert_allclose(found.similarity, [s for s, _ in wanted], atol=1e-6)


def test_only_so_many_neighbors_and_pairs_are_kept(monkeypatch):
    monkeypatch.setattr(paraphrases, "CHUNK", 7)
    vectors = unit(40, 5, 1)
    similarity = vectors @ vectors.T - 2 * np.eye(40)
    near = np.argsort(-similarity, axis=1)[:, :3]
    wanted = {int(min(i, j) * 40 + max(i, j)) for i, row in enumerate(near) for j in row}
    assert set(mine_pairs(vectors, vectors, neighbors=3, keep=1000).key.tolist()) == wanted
    best = [key for _, key in every_pair(vectors) if key in wanted][:15]
    assert mine_pairs(vectors, vectors, neighbors=3, keep=15).key.tolist() == best


def test_judgement_by_pencil():
    # right, wrong, (right, wrong at one similarity), and one known pair that was not mined
    found = paraphrases.MinedPairs(np.array([1, 2, 3, 4]), np.array([0.9, 0.8, 0.5, 0.5], dtype=np.float32))
    judged = judge(found, np.array([1, 3, 99]))
    np.testing.assert_allclose(judged.precision, [1, 2 / 4, 0])
    assert judged.f1_share.mean() == pytest.approx(2 * 2 / (4 + 3))  # against 2 * 1 / (1 + 3) of the first pair alone
    assert judged.threshold == pytest.approx(0.5)
