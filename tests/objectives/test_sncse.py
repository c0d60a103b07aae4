"""SNCSE against its authors' program (oracles), pencil and limits."""

import pytest
import torch
from torch import nn

from cse import SNCSE
from tests.cases import cases, load
from tests.objectives.helpers import agrees, run


@pytest.mark.parametrize("name", cases("sncse"))
def test_every_case_of_the_authors(name):
    about, data = load("sncse", name)
    objective = SNCSE(
        temperature=about["temperature"],
        margin_weight=about["weight"],
        least_gap=about["alpha"],
        largest_gap=about["beta"],
    )
    data = {name: array.double() if array.is_floating_point() else array for name, array in data.items()}
    hidden = data["hidden"].requires_grad_()  # (B V, L, H), in float64, since a loss may be small beside its logits
    at_mask = hidden[data["ids"].flatten(0, 1) == about["mask_token_id"]]  # (B V, H)
    projected = torch.tanh(nn.functional.linear(at_mask, data["mlp_w"], data["mlp_b"]))
    output = run(objective, projected.view(about["B"], about["views"], -1))
    agrees(output, about, data, {"hidden": hidden})


def row(*degrees):
    """Unit vectors of the plane (V, 2)."""
    angles = torch.tensor(degrees) * torch.pi / 180
    return torch.stack([angles.cos(), angles.sin()], -1)


def test_of_several_soft_negatives_the_mean_counts_and_none_adds_nothing():
    rows = torch.stack([row(0.0, 0.0, 0.0, 60.0), row(0.0, 0.0, 0.0, 60.0), row(0.0, 0.0, 0.0, 60.0)])
    present = torch.tensor([[True] * 4, [True, True, True, False], [True, True, False, False]])
    got = run(SNCSE(), rows, view_mask=present).metrics["margins"].item()
    assert got == pytest.approx((0.15 + 0.1 + 0.0) / 3, abs=1e-6)
