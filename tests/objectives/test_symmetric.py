"""Contrast in both directions against sentence-transformers (oracles), pencil, limits and a slow loop."""

import math

import pytest
import torch
from torch.nn.functional import cosine_similarity

from cse.objectives.gte import GTE
from cse.objectives.simcse import SimCSE
from cse.objectives.symmetric import SymmetricInfoNCE
from tests.cases import cases, load, not_offered
from tests.objectives.helpers import agrees, hardness_of, is_joint, run, vectors


@pytest.mark.parametrize("name", cases("symmetric", where=lambda about: not is_joint(about)))
def test_every_case_of_sentence_transformers(name):
    about, data = load("symmetric", name)
    if about["directions"] not in (["query_to_doc"], ["query_to_doc", "doc_to_query"]):
        not_offered(f"the directions {about['directions']}, each with a softmax of its own")
    rows, leaves = vectors(data)
    objective = SimCSE if len(about["directions"]) == 1 else SymmetricInfoNCE
    agrees(run(objective(**hardness_of(about)), rows), about, data, leaves)


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
