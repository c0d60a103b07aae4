"""PromCSE's objective against its authors' program (oracles), pencil and limits. Its encoder has a file of its own."""

import math

import pytest
import torch

from cse import PromCSE
from cse.objectives.parts.functional import energy_hinge
from tests.cases import cases, load
from tests.objectives.helpers import agrees, run


@pytest.mark.parametrize("name", cases("promcse", has=("margin", "eh")))
def test_every_case_of_the_loss_alone(name):
    about, data = load("promcse", name)
    states = data["hs"].requires_grad_()  # (B V, L, H)
    objective = PromCSE(hinge_weight=about["weight"], margin=about["margin"], hard_negative_weight=about["hnw"])
    output = run(objective, states[:, 0].unflatten(0, (len(data["logits"]), -1)))
    agrees(output, about, data, {"hs": states}, ntxent="ntxent", hinge="eh")


def test_hinge_of_rows_without_negatives_or_positives():
    cosine = torch.tensor([[0.5, math.nan], [0.5, 0.1]], requires_grad=True)
    mask = torch.tensor([[True, False], [True, True]])
    got = energy_hinge(cosine, torch.tensor([[1, 0], [0, 0]]), margin=0.2, mask=mask).sum()
    got.backward()
    assert got.item() == 0.0
    assert cosine.grad.abs().sum() == 0.0


def test_hinge_by_a_slow_loop_with_several_positives():
    cosine = torch.rand(3, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    positive = torch.zeros(3, 8)
    positive[torch.arange(3), torch.arange(3)] = positive[torch.arange(3), torch.arange(3) + 3] = 1
    total = 0.0
    for row, own in zip(cosine.tolist(), positive.tolist(), strict=True):
        hardest = max(c for c, p in zip(row, own, strict=True) if not p)
        total += sum(max(0.0, 0.4 + hardest - c) for c, p in zip(row, own, strict=True) if p) / 2
    assert energy_hinge(cosine, positive, margin=0.4).mean().item() == pytest.approx(total / 3, rel=1e-6)
