"""Spans in data: rows of propositions, documents cut into spans, their collator, and random spans."""

import gzip
import json

import numpy as np
import pytest
import torch

from cse import Documents, Encoder, Example, Masked, Propositions, RandomSpans, SpanViews, TextViews
from cse.commands.augment import views_of
from cse.data.marked import grouped
from cse.data.tokens import TokenStore
from tests.refusals import refuses

ROWS = [
    {
        "text_a": " the cat sat",
        "text_b": "a dog ran",
        "propositions_a": [[[1, 8]]],
        "propositions_b": [[[2, 5]], [[0, 9]]],
        "equal": [[0, 1]],
    },
    {
        "text_a": "red sun",
        "text_b": "blue moon",
        "propositions_a": [],
        "propositions_b": [[[0, 4], [5, 9]]],
        "equal": [],
    },
]


def tokens(folder, texts, length=12):
    return TokenStore.build(texts, Encoder(folder).tokenizer, length)


def test_rows_from_every_kind_of_source(tmp_path):
    """A list in memory, jsonl, parquet with lists, and tsv with JSON in its cells are the same rows."""
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    cells = [[json.dumps(v) if isinstance(v, list) else v for v in row.values()] for row in ROWS]
    (tmp_path / "rows.tsv").write_text("\n".join("\t".join(c) for c in [list(ROWS[0]), *cells]))
    want = Propositions(ROWS)
    for name in ("rows.jsonl", "rows.parquet", "rows.tsv"):
        found = Propositions(tmp_path / name)
        assert list(found) == list(want), name
        assert found.hash == want.hash
    assert want[0].texts == ("the cat sat", "a dog ran")
    assert want[0].spans[0].ranges == (((0, 7),),)  # without the space before the text
    assert [spans.groups for spans in want[0].spans] == [(0,), (1, 0)]
    want.save_source(tmp_path / "saved.parquet")
    assert list(Propositions(tmp_path / "saved.parquet")) == list(want)


def test_rows_that_differ_in_propositions_alone_are_different_rows():
    more = [*ROWS, {**ROWS[0], "equal": []}, ROWS[1]]
    assert len(Propositions(more)) == 3
    assert Propositions(more).hash != Propositions(ROWS).hash


def test_groups():
    """Union-find connects by way of others; the program's last pair wins. The example is worked out by hand."""
    equal = [(0, 0), (0, 1), (2, 1)]
    assert grouped(3, 2, equal) == [0, 1, 0, 0, 0]
    assert grouped(3, 2, equal, "program") == [0, 1, 2, 0, 2]
    assert grouped(3, 2, equal[::-1]) == grouped(3, 2, equal)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"propositions_a": [[[0, 99]]]}, r"row 1, first sentence has .* \[\[0, 99\]\], and 12 characters"),
        ({"propositions_a": [[[3, 3]]]}, "first sentence has the proposition"),
        ({"propositions_a": [[0, 3]]}, "first sentence has the proposition"),
        ({"propositions_b": [[]]}, "second sentence has the proposition"),
        ({"propositions_b": "no list"}, "second sentence has 'no list', which is not a list"),
        ({"equal": [[0, 2]]}, r"has the pair \[0, 2\], and its sentences have 1 and 2 propositions"),
        ({"equal": [[0]]}, "equal_column: row 1 has the pair"),
        ({"equal": "{}"}, "equal_column: row 1 has '{}'"),
    ],
)
def test_bad_rows(change, message):
    refuses(message, Propositions, [{**ROWS[0], **change}, ROWS[1]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"proposition_columns": ["propositions_a"]}, "data.proposition_columns"),
        ({"columns": ["text_a", "text_b", "equal"]}, "data.columns"),
        ({"equal_column": "absent"}, "data.equal_column: .* no column 'absent'"),
        ({"groups": "both"}, "data.groups is 'both'"),
    ],
)
def test_bad_options(options, message):
    refuses(message, Propositions, ROWS, **options)


def test_spans_as_tokens(tiny_bert):
    data = Propositions(ROWS)
    collator = SpanViews(max_length=12)
    collator.setup(tokens(tiny_bert, data.unique_texts()), 1)
    batch = collator(list(data))
    assert batch.span_mask.shape == (2, 2, 2, batch.input_ids.shape[2])
    marked = {(0, 0, 0): [1, 2], (0, 1, 0): [2], (0, 1, 1): [1, 2, 3], (1, 1, 0): [1, 2]}  # (row, view, span): tokens
    assert batch.span_mask.nonzero().tolist() == [[*span, token] for span, own in marked.items() for token in own]
    assert batch.span_group[0].tolist() == [[0, 0], [1, 0]]
    refuses("needs rows that mark spans", collator.needs_dropout, Example(("the cat",)))


def test_a_span_that_was_cut_off_is_not_there(tiny_bert):
    data = Propositions([{**ROWS[0], "propositions_b": [[[6, 9]], [[0, 9]]]}, ROWS[1]])
    collator = SpanViews(max_length=4)
    collator.setup(tokens(tiny_bert, data.unique_texts(), 4), 1)
    batch = collator([data[0]])
    assert batch.span_mask[0, 1].sum(-1).tolist() == [0, 2]


def drawn(folder, texts, *, seed=1, epoch=0, rows=slice(None), **options):
    collator = RandomSpans(views=TextViews(max_length=40, views=1), **options)
    collator.setup(tokens(folder, texts, 40), seed)
    return collator([Example((text,), row_id=i) for i, text in enumerate(texts)][rows], epoch)


def test_random_spans_lie_in_the_text_and_have_the_sizes(tiny_bert):
    texts = [" ".join(["the cat sat on"] * n) for n in (1, 3, 8)]
    batch = drawn(tiny_bert, texts, smallest=(1, 4, 10), largest=(3, 8, 30))
    sizes = batch.span_mask.sum(-1)[:, 0].view(3, 3, 5)  # (B, sizes, per size)
    assert bool((sizes[:, 0] >= 1).all())
    assert bool((sizes[:, 0] <= 3).all())
    assert sizes[0, 1].tolist() == [4] * 5  # a text of four tokens
    assert sizes[0, 2].tolist() == [0] * 5
    assert bool((sizes[1:, 2] >= 10).all())
    assert int(sizes[1, 2].max()) <= 12
    text = batch.attention_mask.bool() & (batch.input_ids > 4)  # not special
    assert not bool((batch.span_mask & ~text[:, :, None]).any())
    runs = batch.span_mask.int().diff(dim=-1).abs().sum(-1)
    assert int(runs.max()) == 2  # each is one run of tokens


def test_lengths_follow_the_beta_law(tiny_bert):
    """The mean of 1 + p (20 - 1) with p from Beta(4, 2) is 1 + 19 * 2/3."""
    text = " ".join(["the cat sat on a mat"] * 6)
    batch = drawn(tiny_bert, [text], smallest=(1,), largest=(20,), per_size=4000)
    size = batch.span_mask.sum(-1).double().flatten()
    assert size.mean().item() == pytest.approx(1 + 19 * 4 / 6, abs=0.2)
    assert size.std().item() == pytest.approx(19 * np.sqrt(4 * 2 / (6 * 6 * 7)), abs=0.2)


def test_an_empty_text_has_no_span_and_masks_keep(tiny_bert):
    collator = RandomSpans(views=Masked(views=TextViews(max_length=12, views=1)))
    collator.setup(tokens(tiny_bert, ["", "the cat"]), 1)
    batch = collator([Example(("",), row_id=0), Example(("the cat",), row_id=1)])
    assert batch.span_mask[0].sum() == 0
    assert batch.span_mask[1].sum() > 0
    assert batch.masked_ids is not None
    assert {"span_mask", "masked_ids", "weight"} <= collator.provides
    assert views_of(collator, [Example(("the cat",), row_id=1)], epoch=0, seed=1) == [["the cat"]]
    wide = batch.widened(2)
    assert torch.equal(wide.span_mask[:, 0], batch.span_mask[:, 0])
    assert wide.span_mask[:, 1].sum() == 0


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
