"""MarginMSE: sentence-transformers (oracles), pencil, limits."""

import pytest
import torch

from cse.objectives.margin_mse import MarginMSE
from tests.cases import cases, load
from tests.objectives.helpers import Case, agrees, run, vectors

KINDS = {"dot": "dot", "cos": "cosine"}


def contract_case(backbone):
    return Case({"compare": "cosine"}, even=True)


@pytest.mark.parametrize("name", cases("distill", "marginmse_"))
def test_every_case(name):
    about, data = load("distill", name)
    rows, leaves = vectors(data)
    agrees(run(MarginMSE(compare=KINDS[about["similarity"]]), rows, teacher=data["teacher"]), about, data, leaves)


def test_by_pencil():
    rows = torch.tensor([[[1.0, 0.0], [2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]]])  # scores 2, 0, -1: margins 2 and 3
    scores = run(MarginMSE(), rows, teacher=torch.tensor([[7.0, 6.0, 6.0]]))  # margins 1 and 1
    assert scores.loss.item() == pytest.approx((1 + 4) / 2)
    assert run(MarginMSE(), rows, teacher=torch.tensor([[1.0, 1.0]])).loss.item() == pytest.approx(2.5)
    assert scores.metrics["agreed"] == 1


def test_a_constant_of_a_row_changes_nothing():
    rows, scores = torch.randn(5, 4, 6), torch.randn(5, 3)
    want = run(MarginMSE(compare="cosine"), rows, teacher=scores).loss
    got = run(MarginMSE(compare="cosine"), rows, teacher=scores + torch.randn(5, 1)).loss
    assert got.item() == pytest.approx(want.item(), rel=1e-5)


def test_a_student_that_agrees_learns_nothing():
    rows = torch.randn(4, 4, 3, requires_grad=True)
    loss = run(MarginMSE(), rows, teacher=(rows[:, :1] * rows[:, 1:]).sum(-1).detach()).loss
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-10)
    assert rows.grad.abs().max() < 1e-5


def test_errors():
    rows = torch.randn(3, 4, 5)
    for given, named in (
        ({}, r"MarginMSE needs Batch\.teacher"),
        ({"teacher": torch.zeros(3, 4)}, "3 scores of the positive .* or 2 margins; Batch.teacher has 4"),
    ):
        with pytest.raises(ValueError, match=named):
            run(MarginMSE(), rows, **given)
    with pytest.raises(ValueError, match="hard negatives"):
        run(MarginMSE(), rows[:, :2], teacher=torch.zeros(3, 1))
