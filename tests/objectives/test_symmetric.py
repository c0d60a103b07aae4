"""Contrast in both directions against sentence-transformers (oracles), pencil, limits and a slow loop."""

import math

import pytest
import torch
from torch.nn.functional import cosine_similarity

from cse.errors import UserError
from cse.objectives.gte import GTE
from cse.objectives.simcse import SimCSE
from cse.objectives.symmetric import SymmetricInfoNCE
from tests.cases import cases, load, not_offered
from tests.objectives.helpers import agrees, run, vectors

MODES = {None: "all", "all_negatives": "all", "in_batch_negatives": "in_batch", "hard_negatives": "hard"}


def options_of(about):
    """The arguments of the objectives that a case's settings name."""
    return {
        "temperature": about["temperature"],
        "hardness": about["hardness_strength"] if about["hardness_mode"] else 0.0,
        "hardness_of": MODES[about["hardness_mode"]],
    }


def is_joint(about):
    """Whether several directions share a softmax, as in GTE."""
    return about["partition"] == "joint" and len(about["directions"]) > 1


@pytest.mark.parametrize("name", cases("symmetric", where=lambda about: not is_joint(about)))
def test_every_case_of_sentence_transformers(name):
    about, data = load("symmetric", name)
    if about["directions"] not in (["query_to_doc"], ["query_to_doc", "doc_to_query"]):
        not_offered(f"the directions {about['directions']}, each with a softmax of its own")
    rows, leaves = vectors(data)
    objective = SimCSE if len(about["directions"]) == 1 else SymmetricInfoNCE
    agrees(run(objective(**options_of(about)), rows), about, data, leaves)


def test_by_pencil():
    # Two rows, orthogonal, each positive equal to its anchor, t = 1/2: every logit is 2 on the diagonal and 0 off it.
    rows = torch.eye(2)[:, None].expand(2, 2, 2)
    e2 = math.exp(2)
    assert run(SymmetricInfoNCE(temperature=0.5), rows).loss.item() == pytest.approx(math.log((e2 + 1) / e2), rel=1e-6)


def test_pairs_are_the_mean_of_a_matrix_and_its_transpose():
    rows = torch.randn(5, 2, 8, dtype=torch.float64)
    scores = cosine_similarity(rows[:, None, 0], rows[None, :, 1], dim=-1) / 0.1
    want = sum(torch.nn.functional.cross_entropy(s, torch.arange(5)) for s in (scores, scores.T)) / 2
    assert run(SymmetricInfoNCE(temperature=0.1), rows).loss.item() == pytest.approx(want.item(), rel=1e-12)
    assert run(SymmetricInfoNCE(temperature=0.1), rows[:, [1, 0]]).loss.item() == pytest.approx(want.item(), rel=1e-12)


@pytest.mark.parametrize("of", ["all", "in_batch", "hard"])
def test_hardness_by_a_slow_loop(of):
    rows, strength, t = torch.randn(4, 3, 6, dtype=torch.float64), 2.5, 0.2
    total = 0.0
    for i in range(4):
        terms = {}
        for j in range(4):
            for side in (1, 2):
                cosine = cosine_similarity(rows[i, 0], rows[j, side], dim=0).item()
                own, hard = i == j and side == 1, i == j and side == 2
                chosen = not own and {"all": True, "in_batch": i != j, "hard": hard}[of]
                terms[j, side] = cosine / t + strength * cosine * chosen
        total += math.log(sum(map(math.exp, terms.values()))) - terms[i, 1]
    got = run(SimCSE(temperature=t, hardness=strength, hardness_of=of), rows).loss
    assert got.item() == pytest.approx(total / 4, rel=1e-12)


@pytest.mark.parametrize("kind", [SymmetricInfoNCE, GTE])
def test_a_text_that_occurs_twice_is_no_negative(kind):
    rows = torch.randn(3, 2, 8)
    rows = torch.cat([rows, rows[:1]])  # the first row again
    ids = torch.tensor([[0, 1], [2, 3], [4, 5], [0, 1]])
    once = torch.cat([rows[:3], torch.zeros(1, 2, 8)])  # a row that exists nowhere, instead
    present = torch.tensor([[True, True]] * 3 + [[False, False]])
    weight = torch.tensor([1.0, 1.0, 1.0, 0.0])
    got = run(kind(temperature=0.1), rows, text_id=ids, weight=torch.tensor([1.0, 0.0, 0.0, 0.0])).loss
    want = run(kind(temperature=0.1), once, view_mask=present, weight=weight * torch.tensor([1.0, 0, 0, 0])).loss
    assert got.item() == pytest.approx(want.item(), rel=1e-5)


@pytest.mark.parametrize("kind", [SymmetricInfoNCE, GTE])
def test_refusals(kind):
    with pytest.raises(UserError, match="temperature"):
        kind(temperature=0.0)
    with pytest.raises(UserError, match="hardness"):
        kind(hardness=-1.0)
    with pytest.raises(ValueError, match="one positive"):
        run(kind(), torch.randn(3, 3, 4), positives=2)
    with pytest.raises(ValueError, match="batch_size is 1"):
        run(kind(), torch.randn(1, 2, 4))
