"""DCL and DCLW against two programs, by pencil, and in limits."""

import math

import pytest
import torch

from cse.errors import UserError
from cse.objectives.dcl import DCL, DCLW
from cse.objectives.supcon import SupCon
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


def test_by_pencil():
    # Two rows of equal views, orthogonal, t = 1: -1 + log(2 e^0). All positives are alike, so that w = 1.
    x = torch.eye(2)[:, None].expand(-1, 2, -1)
    for objective in (DCL(temperature=1.0), DCLW(temperature=1.0)):
        assert run(objective, x).loss.item() == pytest.approx(math.log(2) - 1, rel=1e-6)


def test_weights_by_pencil():
    # Positives at cosine 1 and 0; e^{1/s} = 3 at s = 1/log 3, so w = 2 - 3/2 and 2 - 1/2. All negatives have cosine 0.
    x = torch.eye(4)[torch.tensor([[0, 0], [1, 2]])]
    got = run(DCLW(temperature=1.0, sigma=1 / math.log(3)), x).loss.item()
    assert got == pytest.approx(math.log(2) - 0.5 * 0.5, rel=1e-6)


def test_a_row_of_nt_xent_is_one_plus_a_row_of_dcl():
    """e^{NT-Xent} = 1 + e^{DCL}, by view: the mean over views of the logarithm of the right side."""
    x = torch.randn(4, 2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    flat = torch.nn.functional.normalize(x.flatten(0, 1), dim=-1)
    total = 0.0
    for a in range(8):
        positive = a ^ 1
        negatives = [math.exp(float(flat[a] @ flat[k]) / 0.1) for k in range(8) if k not in (a, positive)]
        total += math.log(1 + math.exp(-float(flat[a] @ flat[positive]) / 0.1 + math.log(sum(negatives))))
    assert run(SupCon(), x, label=torch.arange(4)).loss.item() == pytest.approx(total / 8, rel=1e-9)
    total = sum(
        math.log(sum(math.exp(float(flat[a] @ flat[k]) / 0.1) for k in range(8) if k // 2 != a // 2))
        - float(flat[a] @ flat[a ^ 1]) / 0.1
        for a in range(8)
    )
    assert run(DCL(), x).loss.item() == pytest.approx(total / 8, rel=1e-9)


def test_a_wide_weighting_is_none():
    x = torch.randn(4, 2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert run(DCLW(sigma=1e9), x).loss.item() == pytest.approx(run(DCL(), x).loss.item(), rel=1e-7)


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


def test_refusals():
    with pytest.raises(UserError, match="temperature is 0"):
        DCL(temperature=0.0)
    with pytest.raises(UserError, match="sigma is 0"):
        DCLW(sigma=0.0)
    with pytest.raises(ValueError, match="rows have one view"):
        run(DCL(), torch.randn(3, 1, 4), 0)
