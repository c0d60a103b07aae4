"""Bad data in a table: each is one clear error with its fix."""

import gzip
import json
import re

import pandas
import pytest

from cse import Pairs, ScoredPairs, Texts, Triplets
from tests.data.test_shapes import beir, parquet
from tests.refusals import refuses


def lines(*records):
    return "".join((record if isinstance(record, str) else json.dumps(record)) + "\n" for record in records)


def shards(folder, **files):
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_text(content)
    return folder


def text(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def truncated(folder):
    """Two shards, the second cut."""
    parquet(folder / "a.parquet", [{"text": "a"}, {"text": "b"}])
    whole = parquet(folder / "b.parquet", [{"text": "c"}]).read_bytes()
    (folder / "b.parquet").write_bytes(whole[: len(whole) // 2])
    return folder


def file(kind, name, content, said, **options):
    """A row of the table: a data class reads a file of this name."""
    return lambda folder: kind(text(folder, name, content), **options), said


def memory(kind, rows, said, **options):
    """A row of the table: a data class reads rows in memory."""
    return lambda folder: kind(rows, **options), said


def longer(folder, **ids):
    """A BEIR folder whose corpus has one more document, with these ids."""
    beir(folder / "b")
    with (folder / "b" / "corpus.jsonl").open("a") as corpus:
        corpus.write(lines(ids | {"text": "again"}))
    return folder / "b"


BOM = b"\xfe\xff"
DEEP = '{"text": ' + "[" * 100_000 + "]" * 100_000 + "}\n"
CUT = gzip.compress(lines({"text": "a" * 999}).encode())[:-9]
TWICE = pandas.DataFrame([["a", "b"], ["c", "d"]], columns=["text", "text"])
DATES = pandas.DataFrame({"text": pandas.to_datetime(["2020-01-01"])})
HIGH = pandas.DataFrame({"sentence1": ["a"], "sentence2": ["b"], "score": ["high"]})
BODY = [{"query": "a", "positive_passages": [{"docid": 1, "body": "b"}]}]


def nli(*labels, **more):
    """Inference rows, each with a premise of its own."""
    return [{"premise": f"p{i}", "hypothesis": f"h{i}", "label": label, **more} for i, label in enumerate(labels)]


ERRORS = [  # what is made of a folder, message
    file(Texts, "a.txt", "one\ntwo\n".encode("utf-16"), "iconv -f UTF-16 -t UTF-8"),
    file(Texts, "a.csv", BOM + "text\na\n".encode("utf-16-be"), "a.csv is UTF-16 (it begins with the bytes fe ff)"),
    file(Texts, "a.txt", "one\ntwo\n".encode("utf-16-le"), "iconv -f UTF-16"),
    file(Texts, "a.txt", b"one\nol\xe9\n", "a.txt:2 is not UTF-8 (byte 0xe9)\nfix: iconv -f LATIN1"),
    file(Texts, "a.txt", "one\nt\0wo\n", "a.txt:2, column 'text' contains the character NUL"),
    file(Texts, "a.jsonl", DEEP, "a.jsonl:1 is not JSON: it is nested too deeply"),
    file(Texts, "a.jsonl", '["a"]\n', "a.jsonl:1 is not a JSON object"),
    file(Texts, "a.jsonl", lines({"text": "a"}, '{"text": "b'), "a.jsonl:2 is not JSON"),
    file(
        Texts, "a.jsonl", lines({"text": "a"}, {"text": "b\0"}), "a.jsonl:2, column 'text' contains the character NUL"
    ),
    file(Texts, "a.csv", "x,y\n1,2\n", "data.column: "),
    file(Texts, "a.tsv", "x\ttext\n1\ta\n2\tb\tc\n", "a.tsv:3 has 3 cells; expected 2"),
    file(Pairs, "a.tsv", "a\tb\nc\n", "a.tsv:2 has 1 cell; expected 2", columns=(0, 1)),
    file(Texts, "a.csv", 'text\n"open\n', "a.csv:2 is not csv"),
    file(Texts, "a.csv", 'text\na\n"b"c\n', "a.csv:3 is not csv"),
    file(Texts, "a.jsonl", '{"text": "a"}\n', "no column 0", column=0),
    file(Texts, "a.jsonl", '{"text": "\\ud800"}\n', "a.jsonl:1, column 'text' contains half"),
    file(Texts, "a.docx", "x", "whose format is unknown"),
    file(Pairs, "a.txt", "x", "2 columns are to be read: 'sentence1' (data.columns)"),
    file(Texts, "a.txt", "\n \n", "there is no text in it"),
    file(Texts, "a.csv", "", "its columns are none, since it is empty"),
    file(Texts, "a.jsonl.gz", CUT, "a.jsonl.gz, which cannot be read"),
    file(Texts, "a.csv", "text,text\na,b\n", "has 2 columns 'text'"),
    memory(Texts, ["a", "b\0"], "row 2, column 'text' contains the character NUL"),
    memory(Pairs, [{"query": "a", "pos": ["\ud800"]}], "row 1, column 'pos' contains half a character"),
    memory(Texts, ["lonely"], "it has one row: 'lonely'"),
    memory(Texts, ["one", "two", "three"], "there is no text in it (3 not drawn)", share=1e-9),
    memory(Texts, [{"text": ["a"]}], "row 1, column 'text' has a list instead of a text"),
    memory(Texts, [{"text": {"en": "a"}}], "has a dict instead of a text"),
    memory(Pairs, [{"query": "a", "pos": "b"}, {"query": "c", "pos": ["d"]}], "row 2, column 'pos' has a list instead"),
    memory(Pairs, [{"query": "a", "pos": ["b"]}, {"query": "c", "pos": "d"}], "row 2, column 'pos' has a str instead"),
    memory(Pairs, [{"query": ["a"], "pos": ["b"]}], "column 'query' has a list instead"),
    memory(Pairs, [{"query": "a", "pos": [["b"]]}], "column 'pos' has a list instead of a text"),
    memory(Pairs, BODY, "has a document without a text: it has 'docid', 'body'"),
    memory(ScoredPairs, [{"sentence1": "a", "sentence2": ["b"], "score": 1}], "column 'sentence2' has a list instead"),
    memory(Pairs, [("a", "b"), ("c", "d", "e")], "row 2 has 3 cells; expected 2"),
    memory(ScoredPairs, [("a", "b", 0.5), ("c", "d", float("nan"))], "row 2 has the score None"),
    memory(ScoredPairs, [("a", "b", 4)], "must be a number in [0, 1]"),
    memory(ScoredPairs, [("a", "b", float("inf"))], "row 1 has the score 'inf'", max_score=None),
    memory(ScoredPairs, HIGH, "the score 'high'"),
    memory(Pairs, [("a", "b", -1)], "row 1 has the weight '-1'", weight_column="weight"),
    memory(Texts, [("a", "x"), ("b", "")], "row 2 has no label", label_column="label"),
    memory(Triplets, nli("maybe"), "row 1 has the label 'maybe' in column 'label', which is not that of an inference"),
    memory(Triplets, nli(0, w=1), "rows by label have no column 'w'", weight_column="w"),
    memory(Triplets, nli(0, 2), "there is no text in it (2 unpaired)"),
    memory(Pairs, [{"query": "a", "pos": []}], "there is no text in it (1 no_positive)"),
    memory(Texts, ["a"] * 9, "every row is the same: 'a'"),
    memory(Pairs, [{"left": "a", "right": "b"}], "no column 'sentence1'; its columns are 'left', 'right'"),
    memory(Texts, TWICE, "has 2 columns 'text'"),
    memory(Texts, DATES, "has a Timestamp instead of a text"),
    memory(Texts, pandas.DataFrame({"0": ["a"]}), "no column 'text'; its columns are '0'"),
    (Texts, "which is a folder without a .txt, .csv"),
    (lambda d: Texts(shards(d, a_txt="a\n", b_csv="text\nb\n")), "2 kinds: a.txt, b.csv\nfix: give one of them, or a"),
    (lambda d: Texts(f"{d}/*.jsonl"), "no file matches this pattern"),
    (lambda d: Texts(truncated(d)), "b.parquet, which is not a parquet file"),
    (lambda d: Pairs(shards(d, a_csv="sentence1,sentence2\na,b\n", b_csv="sentence1,other\nc,d\n")), "b.csv and"),
    (lambda d: Texts(shards(d, a_tsv="text\na\n", b_tsv="text\tid\nb\t1\n")), "different columns: only one has 'id'"),
    (lambda d: Texts(shards(d, a_jsonl='{"text": "a"}\n', b_jsonl='{"body": "b"}\n')), "b.jsonl has no column 'text'"),
    (lambda d: Pairs(longer(d, _id="d1")), "corpus.jsonl:4 repeats the _id 'd1'"),
    (lambda d: Pairs(beir(d / "b", qrels="q1 d1 1\n")), "train.tsv:2 has 1 cells; expected query-id"),
    (lambda d: Pairs(beir(d / "b", qrels="q1\td1\tyes\n")), "train.tsv:2 has the score 'yes'"),
    (lambda d: Pairs(beir(d / "b"), split="dev"), "has no qrels/dev.tsv; its splits are train"),
    (lambda d: Pairs(beir(d / "b", qrels="q7\td1\t1\n")), "there is no text in it (1 unknown_id)"),
    (lambda d: Pairs(longer(d, id="d1")), "corpus.jsonl:4 has no '_id'"),
]


@pytest.mark.parametrize(("make", "expected"), ERRORS, ids=[expected for _, expected in ERRORS])
def test_one_clear_error_with_its_fix(make, expected, tmp_path):
    refuses(re.escape(expected), make, tmp_path)


MISSING = (
    "Config name is missing.\nPlease pick one among the available configs: ['pair', 'triplet']\nExample of usage:\n`x`"
)
UNKNOWN = "BuilderConfig 'tripled' not found. Available: ['pair', 'triplet']"
SPLIT = "Unknown split \"train\". Should be one of ['dev', 'test']."
PARTS = "needs the name of a configuration; it has pair, triplet"


@pytest.mark.parametrize(
    ("path", "error", "expected"),
    [
        ("org/name", MISSING, f"{PARTS}\nfix: name one: org/name:pair"),
        ("stream:org/name", MISSING, PARTS),
        ("org/name:tripled", UNKNOWN, f"data.path org/name:tripled {PARTS}"),
        ("org/name", SPLIT, "needs the name of a split; it has dev, test\nfix: --data.split=NAME"),
        ("org/name", "anything else", "data.path org/name cannot be loaded: ValueError: anything else"),
    ],
)
def test_the_hub_names_what_exists(path, error, expected, monkeypatch):
    import datasets

    def load_dataset(*names, **options):
        raise ValueError(error)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    refuses(re.escape(expected), Pairs, path)


def test_a_text_that_repeats_another_of_its_row_is_a_remark():
    assert Pairs([("a", "a"), ("b", "c")]).remarks == {"positive equal to its anchor": 1}
    assert Triplets([("a", "b", "b"), ("c", "d", "e")]).remarks == {"negative equal to its positive": 1}
