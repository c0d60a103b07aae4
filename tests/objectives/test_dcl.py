"""DCL and DCLW against two programs, by pencil, and in limits."""

import pytest
import torch

from cse.objectives.dcl import DCL, DCLW
from tests.cases import cases, load
from tests.objectives.helpers import agrees, run, vectors


def build(about, *, detach=True):
    if about["sigma"] is None:
        return DCL(temperature=about["temperature"])
    return DCLW(temperature=about["temperature"], sigma=about["sigma"], detach_weights=detach)


@pytest.mark.parametrize("name", cases("dcl"))
def test_against_the_program_that_averages_the_directions(name):
    about, data = load("dcl", name)
    rows, leaves = vectors(data)
    agrees(run(build(about), rows), about, data, leaves)


@pytest.mark.parametrize("name", cases("dcl", where=lambda about: 1 / about["temperature"] < 80))
def test_against_the_program_that_sums_them(name):
    """At a lower temperature, that program masks a view with itself by e^-103, which is not small there."""
    about, data = load("dcl", name)
    rows, leaves = vectors(data)
    loss = 2 * run(build(about, detach=False), rows).loss
    agrees(loss, about, data, leaves, loss="loss_sum_program", suffix="_sum_program")


@pytest.mark.parametrize("objective", [DCL(), DCLW()])
def test_a_row_of_weight_two_counts_as_two(objective):
    """In the means; its copy is not a negative, so the rows are told apart by text ids."""
    x = torch.randn(4, 2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ids = torch.arange(4)[:, None].expand(-1, 2)
    twice, twice_ids = torch.cat([x, x[:1]]), torch.cat([ids, ids[:1]])
    weight = torch.tensor([1.0, 0, 0, 0])
    one = run(objective, x, text_id=ids, weight=weight).loss.item()
    both = run(objective, twice, text_id=twice_ids, weight=torch.tensor([0.5, 0, 0, 0, 0.5])).loss.item()
    assert both == pytest.approx(one, rel=1e-9)
