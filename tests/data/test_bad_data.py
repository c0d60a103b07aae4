"""Bad data in a table: each is one clear error with its fix, or a counted skip or remark."""

import gzip
import json

import pytest

from cse.data.datasets import Pairs, ScoredPairs, Texts, Triplets
from cse.errors import UserError
from tests.data.test_shapes import beir, jsonl, parquet


def lines(*records):
    return "".join((record if isinstance(record, str) else json.dumps(record)) + "\n" for record in records)


def shards(folder, **files):
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_text(content)
    return folder


def frame(**columns):
    import pandas

    return pandas.DataFrame(columns)


def duplicate_columns():
    import pandas

    return pandas.DataFrame([["a", "b"], ["c", "d"]], columns=["text", "text"])


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


ERRORS = {
    # -- encodings and characters
    "UTF-16 with a mark": (
        lambda d: Texts(text(d, "a.txt", "one\ntwo\n".encode("utf-16"))),
        "iconv -f UTF-16 -t UTF-8",
    ),
    "UTF-16, big-endian": (
        lambda d: Texts(text(d, "a.csv", b"\xfe\xff" + "text\na\n".encode("utf-16-be"))),
        "a.csv is UTF-16 (it begins with the bytes fe ff)",
    ),
    "UTF-16 without a mark": (lambda d: Texts(text(d, "a.txt", "one\ntwo\n".encode("utf-16-le"))), "iconv -f UTF-16"),
    "UTF-16 with accents": (
        lambda d: Texts(text(d, "a.txt", "one\nol\u00e9\n".encode("utf-16-le"))),
        "iconv -f UTF-16",
    ),
    "LATIN1": (
        lambda d: Texts(text(d, "a.txt", b"one\nol\xe9\n")),
        "a.txt:2 is not UTF-8 (byte 0xe9)\nfix: iconv -f LATIN1",
    ),
    "NUL in a file of lines": (
        lambda d: Texts(text(d, "a.txt", "one\nt\0wo\n")),
        "a.txt:2, column 'text' contains the character NUL",
    ),
    "NUL in JSON": (
        lambda d: Texts(jsonl(d / "a.jsonl", [{"text": "a"}, {"text": "b\0"}])),
        "a.jsonl:2, column 'text' contains the character NUL",
    ),
    "NUL in memory": (lambda d: Texts(["a", "b\0"]), "row 2, column 'text' contains the character NUL"),
    "half a character in a list": (
        lambda d: Pairs([{"query": "a", "pos": ["\ud800"]}]),
        "row 1, column 'pos' contains half a character",
    ),
    # -- JSON
    "100,000 brackets": (
        lambda d: Texts(text(d, "a.jsonl", '{"text": ' + "[" * 100_000 + "]" * 100_000 + "}\n")),
        "a.jsonl:1 is not JSON: it is nested too deeply",
    ),
    "a list per line": (lambda d: Texts(text(d, "a.jsonl", '["a"]\n')), "a.jsonl:1 is not a JSON object"),
    "half a line of JSON": (
        lambda d: Texts(text(d, "a.jsonl", lines({"text": "a"}, '{"text": "b'))),
        "a.jsonl:2 is not JSON",
    ),
    # -- tables
    "a column that is not there": (lambda d: Texts(text(d, "a.csv", "x,y\n1,2\n")), "data.column: "),
    "too many cells": (
        lambda d: Texts(text(d, "a.tsv", "x\ttext\n1\ta\n2\tb\tc\n")),
        "a.tsv:3 has 3 cells; expected 2",
    ),
    "too few cells, by number": (
        lambda d: Pairs(text(d, "a.tsv", "a\tb\nc\n"), columns=(0, 1)),
        "a.tsv:2 has 1 cell; expected 2",
    ),
    "an open quote": (lambda d: Texts(text(d, "a.csv", 'text\n"open\n')), "a.csv:2 is not csv"),
    "a quote within": (lambda d: Texts(text(d, "a.csv", 'text\na\n"b"c\n')), "a.csv:3 is not csv"),
    "a number where columns have names": (
        lambda d: Texts(text(d, "a.jsonl", '{"text": "a"}\n'), column=0),
        "no column 0",
    ),
    "half a character in JSON": (
        lambda d: Texts(text(d, "a.jsonl", '{"text": "\\ud800"}\n')),
        "a.jsonl:1, column 'text' contains half",
    ),
    # -- files
    "another kind of file": (lambda d: Texts(text(d, "a.docx", "x")), "whose format is unknown"),
    "a file of lines for pairs": (
        lambda d: Pairs(text(d, "a.txt", "x")),
        "2 columns are to be read: 'sentence1' (data.columns)",
    ),
    "an empty file": (lambda d: Texts(text(d, "a.txt", "\n \n")), "there is no text in it"),
    "an empty table": (lambda d: Texts(text(d, "a.csv", "")), "its columns are none, since it is empty"),
    "one row": (lambda d: Texts(["lonely"]), "it has one row: 'lonely'"),
    "a share of nothing": (
        lambda d: Texts(["one", "two", "three"], share=1e-9),
        "there is no text in it (3 not drawn)",
    ),
    "an empty folder": (lambda d: Texts(d), "which is a folder without a .txt, .csv"),
    "a folder of two kinds": (
        lambda d: Texts(shards(d, a_txt="a\n", b_csv="text\nb\n")),
        "with files of 2 kinds: a.txt, b.csv\nfix: give one of them, or a pattern",
    ),
    "a pattern without a match": (lambda d: Texts(f"{d}/*.jsonl"), "no file matches this pattern"),
    "a pattern of two kinds": (lambda d: Texts(f"{shards(d, a_txt='a', b_csv='text')}/*"), "with files of 2 kinds"),
    "a truncated shard": (lambda d: Texts(truncated(d)), "b.parquet, which is not a parquet file"),
    "a shard of .gz that is cut": (
        lambda d: Texts(text(d, "a.jsonl.gz", gzip.compress(lines({"text": "a" * 999}).encode())[:-9])),
        "a.jsonl.gz, which cannot be read",
    ),
    "shards with other columns": (
        lambda d: Pairs(shards(d, a_csv="sentence1,sentence2\na,b\n", b_csv="sentence1,other\nc,d\n")),
        "b.csv and",
    ),
    "shards with columns more": (
        lambda d: Texts(shards(d, a_tsv="text\na\n", b_tsv="text\tid\nb\t1\n")),
        "have different columns: only one has 'id'",
    ),
    "shards of JSON without the column": (
        lambda d: Texts(shards(d, a_jsonl='{"text": "a"}\n', b_jsonl='{"body": "b"}\n')),
        "b.jsonl has no column 'text'; its columns are 'body'",
    ),
    "columns twice in a csv file": (lambda d: Texts(text(d, "a.csv", "text,text\na,b\n")), "has 2 columns 'text'"),
    "columns twice in a frame": (lambda d: Texts(duplicate_columns()), "has 2 columns 'text'"),
    # -- cells
    "dates": (
        lambda d: Texts(frame(text=__import__("pandas").to_datetime(["2020-01-01"]))),
        "has a Timestamp instead of a text",
    ),
    "true and lists": (lambda d: Texts([{"text": ["a"]}]), "row 1, column 'text' has a list instead of a text"),
    "a mapping": (lambda d: Texts([{"text": {"en": "a"}}]), "has a dict instead of a text"),
    "a list among texts": (
        lambda d: Pairs([{"query": "a", "pos": "b"}, {"query": "c", "pos": ["d"]}]),
        "row 2, column 'pos' has a list instead of a text",
    ),
    "a text among lists": (
        lambda d: Pairs([{"query": "a", "pos": ["b"]}, {"query": "c", "pos": "d"}]),
        "row 2, column 'pos' has a str instead of a list",
    ),
    "a list in the anchor": (lambda d: Pairs([{"query": ["a"], "pos": ["b"]}]), "column 'query' has a list instead"),
    "a list in a list": (
        lambda d: Pairs([{"query": "a", "pos": [["b"]]}]),
        "column 'pos' has a list instead of a text",
    ),
    "a document without a text": (
        lambda d: Pairs([{"query": "a", "positive_passages": [{"docid": 1, "body": "b"}]}]),
        "has a document without a text: it has 'docid', 'body'",
    ),
    "lists where two texts are compared": (
        lambda d: ScoredPairs([{"sentence1": "a", "sentence2": ["b"], "score": 1}]),
        "column 'sentence2' has a list instead of a text",
    ),
    "tuples of several lengths": (lambda d: Pairs([("a", "b"), ("c", "d", "e")]), "row 2 has 3 cells; expected 2"),
    # -- scores, weights, labels
    "a score that is nan": (
        lambda d: ScoredPairs([("a", "b", 0.5), ("c", "d", float("nan"))]),
        "row 2 has the score None",
    ),
    "a score in words": (
        lambda d: ScoredPairs(frame(sentence1=["a"], sentence2=["b"], score=["high"])),
        "the score 'high'",
    ),
    "a score out of range": (lambda d: ScoredPairs([("a", "b", 4)]), "must be a number in [0, 1]"),
    "an infinite score": (
        lambda d: ScoredPairs([("a", "b", float("inf"))], max_score=None),
        "row 1 has the score 'inf'",
    ),
    "a negative weight": (lambda d: Pairs([("a", "b", -1)], weight_column="weight"), "row 1 has the weight '-1'"),
    "a row without a label": (lambda d: Texts([("a", "x"), ("b", "")], label_column="label"), "row 2 has no label"),
    # -- inference
    "an unknown label": (
        lambda d: Triplets([{"premise": "a", "hypothesis": "b", "label": "maybe"}]),
        "row 1 has the label 'maybe' in column 'label', which is not that of an inference",
    ),
    "weights of inference": (
        lambda d: Triplets([{"premise": "a", "hypothesis": "b", "label": 0, "w": 1}], weight_column="w"),
        "rows by label have no column 'w'",
    ),
    "premises without a pair": (
        lambda d: Triplets(
            [{"premise": "a", "hypothesis": "b", "label": 0}, {"premise": "c", "hypothesis": "d", "label": 2}]
        ),
        "there is no text in it (2 unpaired)",
    ),
    # -- BEIR
    "a corpus that repeats an id": (lambda d: Pairs(repeated(d)), "corpus.jsonl:4 repeats the _id 'd1'"),
    "judgments with spaces": (
        lambda d: Pairs(beir(d / "b", qrels="q1 d1 1\n")),
        "train.tsv:2 has 1 cells; expected query-id",
    ),
    "a judgment in words": (lambda d: Pairs(beir(d / "b", qrels="q1\td1\tyes\n")), "train.tsv:2 has the score 'yes'"),
    "a split that does not exist": (
        lambda d: Pairs(beir(d / "b"), split="dev"),
        "has no qrels/dev.tsv; its splits are train",
    ),
    "only unknown ids": (lambda d: Pairs(beir(d / "b", qrels="q7\td1\t1\n")), "there is no text in it (1 unknown_id)"),
    "a document without _id": (lambda d: Pairs(nameless(d)), "corpus.jsonl:4 has no '_id'"),
    # -- nothing to train on
    "lists without a positive": (
        lambda d: Pairs([{"query": "a", "pos": []}]),
        "there is no text in it (1 no_positive)",
    ),
    "one row again and again": (lambda d: Texts(["a"] * 9), "every row is the same: 'a'"),
    "no known names": (
        lambda d: Pairs([{"left": "a", "right": "b"}]),
        "no column 'sentence1'; its columns are 'left', 'right'",
    ),
    "a number for a name": (lambda d: Texts(frame(**{"0": ["a"]})), "no column 'text'; its columns are '0'"),
}


def repeated(folder):
    beir(folder / "b")
    with (folder / "b" / "corpus.jsonl").open("a") as file:
        file.write(lines({"_id": "d1", "text": "again"}))
    return folder / "b"


def nameless(folder):
    beir(folder / "b")
    with (folder / "b" / "corpus.jsonl").open("a") as file:
        file.write(lines({"id": "d1", "text": "again"}))
    return folder / "b"


@pytest.mark.parametrize("case", ERRORS)
def test_one_clear_error_with_its_fix(case, tmp_path):
    make, expected = ERRORS[case]
    with pytest.raises(UserError) as refused:
        make(tmp_path)
    message = str(refused.value)
    assert expected in message
    assert "\nfix: " in message
    assert len(message.splitlines()) <= 5


def hub(error):
    def load_dataset(*names, **options):
        raise ValueError(error)

    return load_dataset


MISSING = (
    "Config name is missing.\nPlease pick one among the available configs: ['pair', 'triplet']\n"
    "Example of usage:\n\t`x`"
)


@pytest.mark.parametrize(
    ("path", "error", "expected"),
    [
        ("org/name", MISSING, "needs the name of a configuration; it has pair, triplet\nfix: name one: org/name:pair"),
        ("stream:org/name", MISSING, "needs the name of a configuration; it has pair, triplet"),
        (
            "org/name:tripled",
            "BuilderConfig 'tripled' not found. Available: ['pair', 'triplet']",
            "data.path org/name:tripled needs the name of a configuration; it has pair, triplet",
        ),
        (
            "org/name",
            "Unknown split \"train\". Should be one of ['dev', 'test'].",
            "needs the name of a split; it has dev, test\nfix: --data.split=NAME",
        ),
        ("org/name", "anything else", "data.path org/name cannot be loaded: ValueError: anything else"),
    ],
)
def test_the_hub_names_what_exists(path, error, expected, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", hub(error))
    with pytest.raises(UserError) as refused:
        Pairs(path)
    assert expected in str(refused.value)


COUNTED = {
    "blank rows": (lambda d: Texts(["a", " ", None, "b"]), {"blank": 2}, {}),
    "repetitions": (lambda d: Pairs([("a", "b"), ("a", "b"), ("c", "d")]), {"duplicate": 1}, {}),
    "an empty cell": (lambda d: Pairs([("a", ""), ("c", "d")]), {"missing": 1}, {}),
    "an empty text in a list": (
        lambda d: Pairs([{"query": "a", "pos": ["b", ""]}, {"query": "c", "pos": ["d"]}]),
        {"missing": 1},
        {},
    ),
    "a list of nothing": (
        lambda d: Pairs([{"query": "a", "pos": [""]}, {"query": "c", "pos": ["d"]}, {"query": "e", "pos": ["f"]}]),
        {"missing": 0, "no_positive": 1},
        {},
    ),
    "a positive equal to its anchor": (
        lambda d: Pairs([("a", "a"), ("b", "c")]),
        {},
        {"positive equal to its anchor": 1},
    ),
    "a negative equal to a positive": (
        lambda d: Triplets([("a", "b", "b"), ("c", "d", "e")]),
        {},
        {"negative equal to its positive": 1},
    ),
    "a label that occurs once": (
        lambda d: Texts([("a", "x"), ("b", "x"), ("c", "y")], label_column="label"),
        {},
        {"label that occurs once": 1},
    ),
    "judgments of unknown ids and of 0": (lambda d: Pairs(beir(d / "b")), {"unknown_id": 1, "not_relevant": 1}, {}),
    "lists of unequal lengths": (
        lambda d: Triplets(
            [{"query": "a", "pos": ["b"], "neg": ["c", "d"]}, {"query": "e", "pos": ["f"], "neg": ["g"]}]
        ),
        {"missing": 0},
        {},
    ),
}


@pytest.mark.parametrize("case", COUNTED)
def test_a_counted_skip_or_remark(case, tmp_path):
    make, report, remarks = COUNTED[case]
    data = make(tmp_path)
    assert {name: data.report[name] for name in report} == report
    assert data.remarks == remarks
