"""Hardness, in one direction and in the joint contrast of GTE, by slow loops."""

import math

import pytest
import torch
from torch.nn.functional import cosine_similarity

from cse import GTE, SimCSE
from tests.objectives.helpers import run


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


def test_gte_by_a_slow_loop():
    rows, t, strength, total = torch.randn(4, 3, 6, dtype=torch.float64), 0.2, 1.5, 0.0

    def cosine(a, b):
        return cosine_similarity(rows[a], rows[b], dim=0).item()

    for i in range(4):
        query, document = (i, 0), (i, 1)
        terms = [cosine(query, document) / t]
        terms += [cosine(query, (j, s)) * (1 / t + strength) for j in range(4) for s in (1, 2) if (j, s) != document]
        terms += [cosine(query, (j, 0)) / t for j in range(4) if j != i]
        terms += [cosine((j, 0), document) / t for j in range(4)]
        terms += [cosine((j, s), document) / t for j in range(4) for s in (1, 2) if j != i]
        total += math.log(sum(map(math.exp, terms))) - terms[0]
    got = run(GTE(temperature=t, hardness=strength), rows).loss
    assert got.item() == pytest.approx(total / 4, rel=1e-12)
