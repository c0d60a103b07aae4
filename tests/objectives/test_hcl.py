"""HCL against its authors' program, by pencil, and in the limit in which it is NT-Xent."""

import pytest
import torch

from cse.objectives.hcl import HCL
from tests.cases import cases, load
from tests.objectives.helpers import agrees, run, vectors


@pytest.mark.parametrize("name", cases("hnnce", where=lambda about: about["layout"] == "all_pairs"))
def test_against_the_authors_program(name):
    about, data = load("hnnce", name)
    rows, leaves = vectors(data)
    objective = HCL(temperature=about["temperature"], beta=about["beta"], class_prior=about["tau_plus"])
    agrees(run(objective, rows), about, data, leaves)


def test_a_floor_that_is_reached_leaves_a_finite_gradient():
    x = torch.randn(4, 1, 8).expand(-1, 2, -1).clone().requires_grad_()
    run(HCL(temperature=0.05, class_prior=0.9), x).loss.backward()
    assert torch.isfinite(x.grad).all()
