"""A teacher's numbers: from columns of any source to `Example.teacher`, and what is refused."""

import numpy as np
import pytest

from cse import Example, Mixture, Pairs, ScoredPairs, Source, Texts, Triplets, UserError
from cse.data.part import divide
from cse.data.tools.writing import names_of, records, write_rows
from tests.refusals import refuses


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
