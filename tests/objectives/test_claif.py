"""CLAIF: oracles, pencil, limits."""

import math

import pytest
import torch

from cse.objectives.claif import CLAIF
from tests.cases import cases, load
from tests.objectives.helpers import Case, agrees, run


def contract_case(backbone):
    return Case(texts=2)


@pytest.mark.parametrize("name", cases("claif", where=lambda about: "smooth" not in about))
def test_every_case_of_cosine_regression(name):
    about, data = load("claif", name)
    u, v = data["u"].requires_grad_(), data["v"].requires_grad_()
    output = run(CLAIF(), torch.stack([u, v], 1), score=data["y"])
    agrees(output, about, data, {"u": u, "v": v})
    assert output.metrics["rmse"].item() == pytest.approx(math.sqrt(about["loss"]), rel=1e-5)
