"""Kernel-InfoNCE: the equation and the released program (oracles), limits."""

import math

import pytest
import torch

from cse.errors import UserError
from cse.objectives.kernel_infonce import KernelInfoNCE
from cse.objectives.poly_view import PolyView
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


def test_by_pencil():
    # Items at right angles with equal views: distance 0 to the positive, sqrt 2 to both views of the other item.
    rows = torch.eye(4, dtype=torch.float64)[:2, None].expand(2, 2, 4)
    for gamma in (0.5, 1.0, 2.0):
        want = math.log(1 + 2 * math.exp(-(2 ** (gamma / 2)) / 0.5))
        assert run(KernelInfoNCE(gamma=gamma, temperature=0.5), rows).loss.item() == pytest.approx(want, rel=1e-6)


def test_the_gaussian_is_cosine_at_half_the_temperature():
    rows = torch.randn(5, 3, 8, dtype=torch.float64)
    got = run(KernelInfoNCE(temperature=0.2), rows, 2).loss.item()
    assert got == pytest.approx(run(PolyView(temperature=0.1), rows, 2).loss.item(), rel=1e-9)


def test_the_sum_mixes_two_losses():
    rows = torch.randn(5, 2, 8, dtype=torch.float64)
    one, two = (run(KernelInfoNCE(gamma=g), rows).loss.item() for g in (1.0, 2.0))
    got = run(KernelInfoNCE(gamma=1.0, combination="sum", mix=0.3), rows).loss.item()
    assert got == pytest.approx(0.3 * one + 0.7 * two, rel=1e-9)


def test_each_loss_of_a_product_sees_its_half_alone():
    rows = torch.nn.functional.normalize(torch.randn(5, 2, 8, dtype=torch.float64), dim=-1)
    first, second = (KernelInfoNCE(gamma=1.0, combination="product", mix=mix) for mix in (1.0, 0.0))
    turned = rows.clone()
    turned[:, 1, 4:] *= -1  # lengths stay, and so does the first half
    assert run(first, turned).loss.item() == pytest.approx(run(first, rows).loss.item(), rel=1e-9)
    assert run(second, turned).loss.item() != pytest.approx(run(second, rows).loss.item(), rel=1e-3)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_equal_vectors_have_a_finite_gradient(gamma):
    rows = torch.randn(4, 1, 6).expand(4, 2, 6).clone().requires_grad_()
    run(KernelInfoNCE(gamma=gamma), rows).loss.backward()
    assert torch.isfinite(rows.grad).all()


def test_errors():
    for name, value in {"gamma": 0.0, "temperature": 0.0, "mix": 1.1, "epsilon": -1.0}.items():
        with pytest.raises(UserError, match=name):
            KernelInfoNCE(**{name: value})
    with pytest.raises(ValueError, match=r"collator\.views"):
        run(KernelInfoNCE(), torch.randn(3, 1, 4), 0)
