"""Kernel-InfoNCE: the equation and the released program (oracles), limits."""

import pytest
import torch

from cse.objectives.kernel_infonce import KernelInfoNCE
from tests.cases import cases, load
from tests.objectives.helpers import agrees, run, vectors


def case_of(name, **options):
    """Output, settings, arrays and leaves of a case."""
    about, data = load("kernel_infonce", name)
    given = {key: about[key] for key in ("gamma", "temperature", "mix")}
    rows, leaves = vectors(data)
    combination = {"origin": "none"}.get(about["kind"], about["kind"])
    return run(KernelInfoNCE(combination=combination, **given, **options), rows), about, data, leaves


@pytest.mark.parametrize("name", cases("kernel_infonce"))
def test_every_case_of_the_equation(name):
    agrees(*case_of(name))


@pytest.mark.parametrize("name", cases("kernel_infonce"))
def test_every_case_of_the_released_program(name):
    agrees(*case_of(name, epsilon=1e-6), loss="loss_released", suffix="_released")


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_equal_vectors_have_a_finite_gradient(gamma):
    rows = torch.randn(4, 1, 6).expand(4, 2, 6).clone().requires_grad_()
    run(KernelInfoNCE(gamma=gamma), rows).loss.backward()
    assert torch.isfinite(rows.grad).all()
