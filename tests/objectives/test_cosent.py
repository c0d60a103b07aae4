"""CoSENT: a direct loop, pencil, limits."""

import math

import pytest
import torch

from cse import CoSENT
from tests.objectives.helpers import Case, run


def contract_case(backbone):
    return Case(texts=2)


def test_it_equals_a_direct_loop():
    rows, score = torch.randn(8, 2, 5, dtype=torch.float64), torch.tensor([0.1, 0.5, 0.5, 0.9, 0.0, 1.0, 0.3, 0.5])
    c = torch.nn.functional.cosine_similarity(rows[:, 0], rows[:, 1])
    total = 1.0
    for i in range(8):
        for j in range(8):
            if score[i] > score[j]:
                total += math.exp((c[j] - c[i]).item() / 0.1)
    assert run(CoSENT(temperature=0.1), rows, score=score).loss.item() == pytest.approx(math.log(total), rel=1e-6)
