"""Spans of documents by pencil: where they are cut, what their contexts are, and what is left out."""

import gzip

import pytest

from cse.data.marked import Documents
from tests.refusals import refuses


def words(first, last):
    """The words of numbers, both ends included."""
    return " ".join(f"w{i}" for i in range(first, last + 1))


def texts(data):
    return [row.texts for row in data]


def test_the_spans_of_a_document_by_pencil(tmp_path):
    """15 words in spans of 4: 0-3, 4-7, 8-11, and a rest of 3, which is half a span or more."""
    path = tmp_path / "documents.txt"
    path.write_text(f"{words(0, 6)}\n{words(7, 14)}\n")  # lines of one document
    data = Documents(path, words=4)
    assert data.num_positives == 3
    spans = [words(0, 3), words(4, 7), words(8, 11), words(12, 14)]
    assert [row.texts[0] for row in data] == spans
    assert [row.texts[1] for row in data] == [spans[1], spans[2], spans[3], spans[2]]
    assert [row.texts[2] for row in data] == [words(2, 5), words(6, 9), words(10, 13), words(10, 13)]
    for i, row in enumerate(data):
        assert row.texts[3] in set(spans) - {row.texts[0], row.texts[1]}, i
    assert texts(Documents(path, words=4)) == texts(data)


def test_a_rest_of_less_than_half_a_span_and_documents_of_one_span_are_left_out(tmp_path):
    path = tmp_path / "documents.txt"
    path.write_text(f"{words(0, 8)}\n\n{words(20, 23)} x\n \n{words(30, 37)}\n")
    data = Documents(path, words=4)
    assert [row.texts[0] for row in data] == [words(0, 3), words(4, 7), words(30, 33), words(34, 37)]
    assert [row.texts[3] for row in data] == [" "] * 4  # of two spans, none is another
    assert data.report["single_span"] == 1


def test_files_and_rows_end_documents(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(f"{name} {words(0, 2)}\n{words(3, 6)}")
    spans = [row.texts[:2] for row in Documents(tmp_path, words=4, contexts=["neighbor"])]
    assert spans == [
        ("a w0 w1 w2", words(3, 6)), (words(3, 6), "a w0 w1 w2"),
        ("b w0 w1 w2", words(3, 6)), (words(3, 6), "b w0 w1 w2"),
    ]  # fmt: skip
    memory = Documents([f"a {words(0, 6)}", f"b {words(0, 6)}"], words=4, contexts=["neighbor"])
    assert texts(memory) == [row[:2] for row in spans]
    path = tmp_path / "table.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.writelines(f'{{"title": "x", "body": "{n} {words(0, 6)}"}}\n' for n in "ab")
    assert texts(Documents(path, column="body", words=4, contexts=["neighbor"])) == texts(memory)
    assert Documents(path, words=4).understood.startswith("text = ")


def test_a_long_document_is_read_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("cse.data.marked.LONGEST", 8)
    path = tmp_path / "long.txt"
    path.write_text("\n".join(words(i, i + 3) for i in range(0, 64, 4)))
    data = Documents(path, words=4, contexts=["neighbor"])
    assert [row.texts[0] for row in data] == [words(i, i + 3) for i in range(0, 64, 4)]
    assert data[1].texts[1] == words(0, 3)  # the last span of its part


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"words": 1}, "data.words is 1"),
        ({"contexts": []}, r"data.contexts is \[\]"),
        ({"contexts": ["overlap", "overlap"]}, "neighbor, overlap, random, once"),
        ({"words": 40}, r"there is no text in it \(1 single_span\)"),
    ],
)
def test_bad_arguments_are_named(options, said, tmp_path):
    path = tmp_path / "documents.txt"
    path.write_text(words(0, 30))
    refuses(said, Documents, path, **options)
