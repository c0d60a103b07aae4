"""HCL against its authors' program, by pencil, and in the limit in which it is NT-Xent."""

import math

import pytest
import torch

from cse.errors import UserError
from cse.objectives.hcl import HCL
from cse.objectives.supcon import SupCon
from tests.cases import cases, load
from tests.objectives.helpers import agrees, run, vectors


@pytest.mark.parametrize("name", cases("hnnce", where=lambda about: about["layout"] == "all_pairs"))
def test_against_the_authors_program(name):
    about, data = load("hnnce", name)
    rows, leaves = vectors(data)
    objective = HCL(temperature=about["temperature"], beta=about["beta"], class_prior=about["tau_plus"])
    agrees(run(objective, rows), about, data, leaves)


def test_by_pencil():
    # Two rows of equal views, orthogonal, t = 1: two negatives of cosine 0 with weights 1. g = (2 - 2 c e) / (1 - c),
    # but at least 2 / e.
    x = torch.eye(2)[:, None].expand(-1, 2, -1)
    for prior, g in {0.0: 2.0, 0.1: (2 - 0.2 * math.e) / 0.9, 0.9: 2 / math.e}.items():
        got = run(HCL(temperature=1.0, beta=3.0, class_prior=prior), x).loss.item()
        assert got == pytest.approx(math.log((math.e + g) / math.e), rel=1e-5), prior


def test_without_hardness_and_debiasing_it_is_nt_xent():
    x = torch.randn(5, 2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    want = run(SupCon(temperature=0.5), x, label=torch.arange(5)).loss.item()
    assert run(HCL(beta=0.0, class_prior=0.0), x).loss.item() == pytest.approx(want, rel=1e-9)


def test_a_floor_that_is_reached_leaves_a_finite_gradient():
    x = torch.randn(4, 1, 8).expand(-1, 2, -1).clone().requires_grad_()
    run(HCL(temperature=0.05, class_prior=0.9), x).loss.backward()
    assert torch.isfinite(x.grad).all()


def test_refusals():
    with pytest.raises(UserError, match="class_prior is 1"):
        HCL(class_prior=1.0)
    with pytest.raises(UserError, match="beta is -1"):
        HCL(beta=-1.0)
