"""Losses on rounded vectors: against the loss of vectors rounded by hand, and the gradient that passes the rounding."""

import numpy as np
import pytest
import torch

from cse import CosineMSE, Quantized, SimCSE
from tests.objectives.helpers import Case, run


def contract_case(backbone):
    return Case({"term": SimCSE(), "weight": 0.5})


def rounded(rows, kind):
    unit = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    if kind == "binary":
        return np.where(unit > 0, 1.0, -1.0)
    step = np.abs(unit).max(-1, keepdims=True) / 127
    return np.round(unit / step) * step


@pytest.mark.parametrize("kind", ["binary", "int8"])
def test_it_adds_the_loss_of_vectors_that_were_rounded_before(kind):
    rows = torch.randn(6, 3, 8, dtype=torch.float64)
    want = run(SimCSE(), rows).loss + 0.5 * run(SimCSE(), torch.from_numpy(rounded(rows.numpy(), kind))).loss
    got = run(Quantized(term=SimCSE(), kind=kind, weight=0.5), rows).loss
    assert got.item() == pytest.approx(want.item(), rel=1e-9)


def test_the_gradient_passes_the_rounding_as_if_it_were_not_there():
    unit = torch.nn.functional.normalize(torch.randn(1, 2, 4, dtype=torch.float64), dim=-1).requires_grad_()
    run(Quantized(term=CosineMSE(), weight=1.0), unit, teacher=torch.zeros(1, 1, dtype=torch.float64)).loss.backward()
    z = unit.detach()[0]
    signs = torch.where(z > 0, 0.5, -0.5).double()  # of length 1
    # d/da (cos(a, b) - 0)^2 = 2 cos (b - cos a), at a, b as they are, and at their signs
    along = [2 * (a @ b) * (b - (a @ b) * a) for a, b in (z, signs)]
    tangent = along[1] - (along[1] @ z[0]) * z[0]  # the vectors are scaled to length 1 before they are rounded
    assert torch.allclose(unit.grad[0, 0], along[0] + tangent, atol=1e-9)
