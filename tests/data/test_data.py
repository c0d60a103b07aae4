"""Data sets: rows by pencil, from files and memory; a teacher's numbers beside them; and arguments that are refused."""

import gzip
import math
import random
from pathlib import Path

import numpy as np
import pytest

from cse import Example, Mixture, Pairs, ScoredPairs, Source, Texts, Triplets, UserError
from cse.data import datasets as data
from cse.data.part import divide
from cse.data.reading.sources import HUB_ID
from cse.data.tools.writing import names_of, records, write_rows
from tests.refusals import refuses


@pytest.fixture
def write(tmp_path):
    """Write a file and give its path as a recipe would."""

    def write(name, content):
        path = tmp_path / name
        raw = content.encode() if isinstance(content, str) else content
        path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
        return str(path)

    return write


def texts_of(dataset):
    return [example.texts for example in dataset]


def fails(make, *parts):
    """The call ends in a UserError of at most five lines with these parts."""
    said = refuses("", make)
    assert [part for part in parts if part not in said] == []


def test_texts(write):
    path = write("my.txt", "\ufeffone two\r\n\n  three  \none two\n\t\nfour\u2028five\n")
    dataset = Texts(path)
    assert texts_of(dataset) == [("one two",), ("three",), ("four\u2028five",)]
    assert dataset[1] == dataset[-2] == Example(("three",), row_id=1)
    assert dataset[1:] == [dataset[1], dataset[2]]
    assert dataset.report == {"blank": 2, "duplicate": 1, "missing": 0}
    assert dataset.describe() == f"{path} 3 sentences"
    with pytest.raises(IndexError):
        dataset[3]


def test_texts_by_length_and_limit(write):
    path = write("my.txt", "a\na b\na b c\na b c d\nb\nc d\n")
    dataset = Texts(path, min_words=2, max_words=3)
    assert texts_of(dataset) == [("a b",), ("a b c",), ("c d",)]
    assert (dataset.report["short"], dataset.report["long"]) == (2, 1)
    assert texts_of(Texts(path, limit=2)) == [("a",), ("a b",)]


def test_a_share_of_the_texts_wherever_they_stand():
    """4,000 draws of probability 0.3 have a mean of 1,200 and a deviation of 29."""
    texts = [f"text {i}" for i in range(4000)]
    kept = Texts(texts, share=0.3)
    found = [text for (text,) in texts_of(kept)]
    assert abs(len(found) - 1200) < 4 * 29
    assert kept.report == {"blank": 0, "duplicate": 0, "missing": 0, "not drawn": 4000 - len(found)}
    assert abs(len(set(found) & set(texts[:2000])) - 600) < 4 * 21  # from all parts of the source
    moved = random.Random(1).sample(texts, 4000)
    assert [text for (text,) in texts_of(Texts(moved, share=0.3))] == [text for text in moved if text in set(found)]
    assert {text for (text,) in texts_of(Texts(texts, share=0.1))} < set(found)  # a smaller one is a part of it
    assert len(Texts(texts, share=1.0)) == 4000


def test_pairs_by_name_and_by_number(write):
    rows = "one\teins\ntwo\tzwei\n"
    named = Pairs(write("named.tsv", "b\ta\n" + rows), columns=("b", "a"))
    numbered = Pairs(write("bare.tsv", rows), columns=[0, 1])
    assert texts_of(named) == texts_of(numbered) == [("one", "eins"), ("two", "zwei")]
    assert named.hash == numbered.hash
    assert Pairs(write("bare.tsv", rows), columns=[1, 0]).hash != named.hash


def test_several_positives_with_relevance(write):
    table = "q\td1\td2\tr1\tr2\tw\na\tb\tc\t1\t0.5\t2\nd\te\t\t3\t0\t1\na\tb\tc\t1\t0\t2\na\tb\tc\t1\t0\t2\n"
    path = write("my.tsv", table)
    graded = {"columns": ("q", "d1", "d2"), "relevance_columns": ("r1", "r2")}
    dataset = Pairs(path, **graded, weight_column="w")
    assert dataset[0] == Example(("a", "b", "c"), num_positives=2, row_id=0, weight=2.0, relevance=(1.0, 0.5))
    assert [e.relevance for e in dataset] == [(1.0, 0.5), (3.0, 0.0), (1.0, 0.0)]
    assert "relevance" in dataset.value_names
    assert texts_of(dataset)[1] == ("d", "e", " ")
    plain = Pairs(path, columns=("q", "d1", "d2"))
    assert (plain[0].num_positives, plain[0].relevance, "relevance" in plain.value_names) == (2, None, False)
    assert len({plain.hash, dataset.hash, Pairs(path, **graded).hash}) == 3
    rows = [("a", "b", "c", 1, 0.5), ("d", "e", "f", 0, 2)]
    assert [e.relevance for e in Pairs(rows, **graded)] == [(1.0, 0.5), (0.0, 2.0)]
    fails(lambda: Pairs(path, columns=("q", "d1", "d2"), relevance_columns=("r1",)), "has 1 columns for 2 positives")
    for bad in ("much", "-1", "inf", ""):
        path = write("bad.tsv", f"q\td1\td2\tr1\tr2\na\tb\tc\t1\t{bad}\n")
        fails(lambda path=path: Pairs(path, **graded), "data.relevance_columns", "bad.tsv:2", f"relevance {bad!r}")


def test_a_missing_cell_becomes_one_space(write):
    path = write("my.tsv", "premise\tentailment\tcontradiction\np\te\tc\n\te\t\n\t\t\n")
    dataset = Triplets(path)
    assert texts_of(dataset) == [("p", "e", "c"), (" ", "e", " ")]
    assert dataset.report == {"blank": 1, "duplicate": 0, "missing": 2}
    assert dataset[0].num_positives == 1


def test_of_several_negatives_a_missing_one_is_left_out(write):
    path = write("my.tsv", "a\tp\tn1\tn2\na\tp\tx\ty\na\tp\t\ty\n")
    assert texts_of(Triplets(path, columns=("a", "p", "n1", "n2"))) == [("a", "p", "x", "y"), ("a", "p", "y")]


def test_scores_are_scaled(write):
    path = write("my.tsv", "score\tsentence1\tsentence2\n5.0\ta\tb\n1\tc\td\n2\ta\tb\n3\t\td\n")
    dataset = ScoredPairs(path, min_score=1, max_score=5)
    assert [e.score for e in dataset] == [1.0, 0.0, 0.25, 0.5]
    assert texts_of(dataset)[3] == (" ", "d")
    for bad in ("six", "5.1", "nan", "inf", ""):
        path = write("bad.tsv", f"score\tsentence1\tsentence2\n5\ta\tb\n{bad}\tc\td\n")
        fails(lambda path=path: ScoredPairs(path, max_score=5.0), "bad.tsv:3", repr(bad), "must be a number in [0, 5]")


def test_triplets_with_scores(write):
    path = write("my.tsv", "premise\tentailment\tcontradiction\tscore\na\tb\tc\t0.5\nd\te\t\t1\n")
    dataset = Triplets(path, score_column="score")
    assert dataset[0] == Example(("a", "b", "c"), score=0.5, row_id=0)
    assert dataset[1] == Example(("d", "e", " "), score=1.0, row_id=1)
    assert Triplets(path)[0].score is None
    bad = write("bad.tsv", "premise\tentailment\tcontradiction\tscore\na\tb\tc\t1.5\n")
    fails(lambda: Triplets(bad, score_column="score"), "data.score_column", "bad.tsv:2", "'1.5'")
    fails(lambda: Triplets(path, score_column="rating"), "data.score_column", "rating")


def test_an_asset(monkeypatch, write):
    path = Path(write("sentences.txt", "one\ntwo\n"))
    monkeypatch.setattr("cse.assets.resolve", lambda name: path)
    assert Texts("asset:wiki").describe() == "asset:wiki 2 sentences"


def test_a_file_that_is_not_there(write, tmp_path):
    write("mine.txt", "x")
    fails(lambda: Texts(str(tmp_path / "mime.txt")), "mime.txt: there is no such file", "mine.txt?", ".parquet")
    fails(lambda: Texts("data/mine.txt"), "there is no such file")
    fails(lambda: Texts("nowhere/at/all"), "there is no such file")


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda p: Texts(p, limit=1), "data.limit is 1"),
        (lambda p: Texts(p, min_words=-1), "data.min_words is -1"),
        (lambda p: Texts(p, min_words=5, max_words=4), "data.max_words is 4"),
        (lambda p: Texts(p, share=0.0), "data.share is 0.0\nfix: give a number in (0, 1]"),
        (lambda p: Texts(p, share=1.5), "data.share is 1.5"),
        (lambda p: Texts(p, share=math.nan), "data.share is nan"),
        (lambda p: Pairs(p, columns=("a",)), "give 2 or more different"),
        (lambda p: Pairs(p, columns=("a", "a")), "give 2 or more different"),
        (lambda p: Pairs(p, columns=("a", 0)), "not both"),
        (lambda p: Pairs(p, columns=(-1, 0)), "numbers from 0"),
        (lambda p: Triplets(p, columns=("a", "b")), "give 3 or more"),
        (lambda p: ScoredPairs(p, min_score=1, max_score=1), "data.max_score is 1"),
    ],
)
def test_arguments_are_checked_before_anything_is_read(monkeypatch, make, part):
    monkeypatch.setattr(data, "open_source", lambda *args: pytest.fail("the source was opened"))
    fails(lambda: make("my.csv"), part)


def test_a_path_that_looks_like_a_hub_id_but_exists(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "name.txt").write_text("a\nb\n")
    assert len(Texts("org/name.txt")) == 2
    assert HUB_ID.fullmatch("org/name.txt")


@pytest.fixture
def table(tmp_path):
    def write(text, name="rows.tsv"):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def test_numbers_of_any_sign_and_size(table):
    path = table("a\tb\tw\tx\ty\none\ttwo\t1\t-7.5\t1e6\nthree\tfour\t2\t0\t-0.25\n")
    data = Pairs(path, columns=["a", "b"], teacher_columns=["y", "x"], weight_column="w")
    assert data[0] == Example(("one", "two"), row_id=0, weight=1.0, teacher=(1e6, -7.5))
    assert [row.teacher for row in data] == [(1e6, -7.5), (-0.25, 0.0)]
    assert "teacher" in data.value_names
    plain = Pairs(path, columns=["a", "b"], weight_column="w")
    assert ("teacher" in plain.value_names, plain[0].teacher) == (False, None)
    other = Pairs(path, columns=["a", "b"], teacher_columns=["x", "y"], weight_column="w")
    assert len({data.hash, plain.hash, other.hash}) == 3


def test_vectors_in_a_list_column(tmp_path):
    import pyarrow
    from pyarrow.parquet import write_table

    vectors = np.random.default_rng(0).normal(size=(20, 33)).astype(np.float32)
    texts = [f"text {i}" for i in range(20)]
    listed = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(vectors.ravel()), 33)
    write_table(pyarrow.table({"text": texts, "v": listed}), tmp_path / "rows.parquet")
    data = Texts(tmp_path / "rows.parquet", teacher_columns=["v"])
    assert np.array_equal(np.array([row.teacher for row in data], dtype=np.float32), vectors)
    for rows in (
        [{"text": t, "v": v} for t, v in zip(texts, vectors, strict=True)],  # arrays
        [{"text": t, "v": v.tolist()} for t, v in zip(texts, vectors, strict=True)],
        [{"text": t, "v": str(v.tolist())} for t, v in zip(texts, vectors, strict=True)],  # as a .tsv file has them
        list(zip(texts, vectors, strict=True)),
    ):
        again = Texts(rows, teacher_columns=["v"])
        assert (again.hash, again[3]) == (data.hash, data[3])
    memory = Texts([{"text": t, "v": v} for t, v in zip(texts, vectors, strict=True)], teacher_columns=["v"])
    memory.save_source(tmp_path / "saved.parquet")  # as a run keeps rows of memory
    assert Texts(tmp_path / "saved.parquet", teacher_columns=["v"]).hash == data.hash


def test_every_class_of_rows_and_what_is_made_of_them(table):
    path = table("a\tp\tn\ts\tt\n" + "".join(f"a{i}\tp{i}\tn{i}\t0.5\t{i}\n" for i in range(8)))
    triplets = Triplets(path, columns=["a", "p", "n"], score_column="s", teacher_columns=["t", "s"])
    assert triplets[2] == Example(("a2", "p2", "n2"), score=0.5, row_id=2, teacher=(2.0, 0.5))
    scored = ScoredPairs(path, columns=["a", "p"], score_column="s", teacher_columns=["t"])
    assert (scored[3].score, scored[3].teacher) == (0.5, (3.0,))
    mixture = Mixture({"one": Source(triplets), "two": Source(Pairs(path, columns=["a", "p"]))})
    assert "teacher" in mixture.value_names
    assert mixture[1].teacher == (1.0, 0.5)
    part = divide([triplets], [3], 1)[0]
    assert "teacher" in part.kept.value_names
    assert all(row.teacher == (float(row.texts[0][1:]), 0.5) for row in part.kept)


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_they_are_written_and_read_again(table, tmp_path, suffix):
    path = table("a\tb\tx\ty\none\ttwo\t1\t2\nthree\tfour\t3\t4\n")
    data = Pairs(path, columns=["a", "b"], teacher_columns=["x", "y"])
    write_rows(tmp_path / f"out.{suffix}", names_of([data]), records(data))
    again = Pairs(tmp_path / f"out.{suffix}", teacher_columns=["teacher"])
    assert [row.teacher for row in again] == [(1.0, 2.0), (3.0, 4.0)]


@pytest.mark.parametrize(
    ("cell", "named"),
    [
        ("nan", "'nan', which must be a finite number"),
        ("inf", "'inf', which must be a finite number"),
        ("1e99", "'1e99', which must be a finite number"),
        ("much", "'much', which must be a finite number"),
        ("", "has no number of the teacher"),
        ("[]", "has 0 numbers, and the rows before it have 1"),
        ("1 2", "has 2 numbers, and the rows before it have 1"),
    ],
)
def test_what_is_no_number_is_refused_by_row(table, cell, named):
    path = table(f"a\tb\tt\none\ttwo\t1\nthree\tfour\t{cell}\n")
    options = {"columns": ["a", "b"], "teacher_columns": ["t"]}
    assert named in refuses(r"data\.teacher_columns: .*rows\.tsv:3", Pairs, path, **options)


def test_lists_of_other_things_are_refused():
    for value in ([0.5, "much"], [[1.0]], [0.5, None]):
        with pytest.raises(UserError, match="instead of a number"):
            Texts([{"text": "a", "v": value}, {"text": "b", "v": [1.0, 2.0]}], teacher_columns=["v"])
    with pytest.raises(UserError, match="has no column 'v'"):
        Texts([{"text": "a"}, {"text": "b"}], teacher_columns=["v"])
