"""CosineMSE: sentence-transformers (oracles), CLAIF, a teacher that is asked, errors."""

import pytest
import torch

from cse.objectives.cosine_mse import CosineMSE
from tests.cases import cases, load
from tests.objectives.helpers import Case, agrees, run


def contract_case(backbone):
    return Case(even=True)


@pytest.mark.parametrize("name", cases("distill", "cosine_mse"))
def test_every_case(name):
    about, data = load("distill", name)
    u, v = data["u"].requires_grad_(), data["v"].requires_grad_()
    output = run(CosineMSE(), torch.stack([u, v], 1), teacher=data["teacher"].view(-1, 1))
    agrees(output, about, data, {"u": u, "v": v})


def test_every_other_text_of_a_row_counts():
    rows = torch.tensor([[[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]])  # cosines 1 and 0
    assert run(CosineMSE(), rows, teacher=torch.tensor([[0.5, -1.0]])).loss.item() == pytest.approx((0.25 + 1) / 2)
