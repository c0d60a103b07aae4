"""MEQ and its retrieval term: the authors' program (oracles), pencil, properties."""

import json
import math

import numpy as np
import pytest
import torch

from cse import DPR, MEQ, Encoder, TextViews, Triplets, WeightedSum, cli
from cse.data.part import Part
from cse.data.tokens import TokenStore
from tests.cases import cases, load
from tests.objectives.helpers import Case, agrees, refuses, run


def contract_case(backbone):
    return Case({}, texts=4)


def both(form="contrastive", weight=0.5, margin=1.0):
    return WeightedSum(terms=[DPR(hard=1), MEQ(form=form, margin=margin)], weights=[1.0, weight])


@pytest.mark.parametrize("case", cases("meq"))
def test_every_case_of_the_authors_program(case):
    """Rows without edits have the question in their place, and no view there."""
    about, data = load("meq", case)
    question, passages, edits = (data[n].requires_grad_() for n in ("question", "passages", "edits"))
    size, edited = about["B"], about["rows_with_edits"]
    width = passages.shape[1]
    own = torch.zeros(size, 2, width).index_copy(0, torch.tensor(edited), edits.view(-1, 2, width))
    rows = torch.cat([question[:, None], passages.view(size, 2, width), own], 1)  # (B, 5, D)
    mask = torch.ones(size, 5, dtype=torch.bool)
    mask[[i for i in range(size) if i not in edited], 3:] = False
    output = run(both(about["kind"], about["weight"], about["margin"] or 0.0), rows, view_mask=mask)
    leaves = {"question": question, "passages": passages, "edits": edits}
    agrees(output, about, data, leaves, dpr_loss="retrieval_loss", meq_loss="question_loss")
    assert output.metrics["edited"] == len(edited)


# Two rows by pencil. Questions (1, 0) and (0, 2); passages equal to the questions, hard passages 0; q+ is the question,
# q- is half of it.
ROWS = torch.tensor(
    [[[1.0, 0], [1, 0], [0, 0], [1, 0], [0.5, 0]], [[0.0, 2], [0, 2], [0, 0], [0, 2], [0, 1]]], dtype=torch.float64
)


def test_the_retrieval_by_pencil():
    # The first question has the products 1, 0 with passages and 0, 0 with hard ones; the second 4, 0, 0, 0.
    want = (math.log(1 + 3 * math.exp(-1)) + math.log(1 + 3 * math.exp(-4))) / 2
    assert run(DPR(hard=1), ROWS).loss.item() == pytest.approx(want, rel=1e-9)
    assert run(DPR(), ROWS[:, :3]).loss.item() == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("form", ["hinge", "dot"])
def test_a_row_with_one_of_the_two_joins_neither(form):
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask[1, 4] = False
    want = run(MEQ(form=form), ROWS[:1]).loss.item()
    assert run(MEQ(form=form), ROWS, view_mask=mask).loss.item() == pytest.approx(want, rel=1e-9)


def test_missing_columns_keep_their_place(tmp_path, tiny_bert):
    """The hard passage, the paraphrase or the edit may be missing, and the others stay where they are."""
    rows = [("the cat", "a cat", "the dog", "red", "blue"), ("sun", "moon", None, "fast", "slow")]
    rows += [("house", "tree", "mat", None, None), ("ran", "sat", "on", "a", None)]
    names = ["q", "p", "n", "plus", "minus"]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in rows))
    data = Triplets(path, columns=names, keep_places=True)
    assert [e.texts for e in data] == [tuple(text or "" for text in row) for row in rows]
    encoder = Encoder(tiny_bert)
    collator = TextViews(max_length=8)
    collator.setup(TokenStore.build(data.texts(), encoder.tokenizer, 8), 1)
    batch = collator(list(data))
    assert batch.view_mask.tolist() == [[text is not None for text in row] for row in rows]
    assert batch.input_ids[1, 2].tolist() == batch.input_ids[1, 0].tolist()  # filled up with the anchor
    assert [len(e.texts) for e in Triplets(path, columns=names)] == [5, 4, 3, 4]


def test_places_are_kept_where_rows_are_held_out(tmp_path):
    rows = [("a", "b", "c", "d", "e"), ("f", "g", "h", None, "i")]
    data = Triplets(rows, columns=[0, 1, 2, 3, 4], keep_places=True)
    part = Part(data, np.array([0, 1]), {}, lambda text: text != "d", fewer=True)
    assert [e.texts for e in part] == [("a", "b", "c", "", "e"), ("f", "g", "h", "", "i")]


def test_refusals(tmp_path, capsys):
    path = tmp_path / "lists.jsonl"
    path.write_text('{"anchor": "a", "positive": "b", "negative": ["c", "d"]}\n' * 2)
    refuses("instead of a text", Triplets, path, keep_places=True)
    options = ["--objective.terms=[{class_path: cse.objectives.meq.MEQ, init_args: {form: cosine}}]"]
    assert cli.main(["train", "meq", "--encoder", "asset:mini", *options]) == 2
    assert "cosine" in capsys.readouterr().err
