"""ListwiseKL: sentence-transformers (oracles), pencil, limits."""

import math

import pytest
import torch

from cse.errors import UserError
from cse.objectives.listwise_kl import ListwiseKL
from tests.cases import cases, load
from tests.objectives.helpers import Case, agrees, run, vectors

KINDS = {"dot": "dot", "cos": "cosine"}


def contract_case(backbone):
    return Case({"compare": "cosine", "student_temperature": 0.5}, even=True)


@pytest.mark.parametrize("name", cases("distill", "kl_"))
def test_every_case(name):
    about, data = load("distill", name)
    rows, leaves = vectors(data)
    temperatures = {key: about[key] for key in ("student_temperature", "teacher_temperature")}
    objective = ListwiseKL(compare=KINDS[about["similarity"]], **temperatures)
    agrees(run(objective, rows, teacher=data["teacher"]), about, data, leaves)


def test_by_pencil():
    rows = torch.tensor([[[1.0, 0.0], [0.0, 5.0], [0.0, -5.0]]])  # scores 0 and 0: one half each
    loss = run(ListwiseKL(), rows, teacher=torch.tensor([[math.log(3), 0.0]])).loss  # 3/4 and 1/4
    assert loss.item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), rel=1e-6)


def test_a_cold_teacher_makes_it_infonce_over_the_row():
    rows, scores = torch.randn(5, 4, 6), torch.tensor([[3.0, 1.0, 2.0]]).expand(5, 3)
    student = torch.einsum("bd,bkd->bk", rows[:, 0], rows[:, 1:])
    want = -torch.log_softmax(student, 1)[:, 0].mean()
    loss = run(ListwiseKL(teacher_temperature=1e-6), rows, teacher=scores).loss  # its softmax underflows to 0
    assert loss.item() == pytest.approx(want.item(), rel=1e-5)


def test_a_constant_of_a_row_changes_nothing():
    rows, scores = torch.randn(5, 4, 6), torch.randn(5, 3)
    got = run(ListwiseKL(), rows, teacher=scores + torch.randn(5, 1)).loss
    assert got.item() == pytest.approx(run(ListwiseKL(), rows, teacher=scores).loss.item(), rel=1e-4)


def test_a_student_that_agrees_learns_nothing():
    rows = torch.randn(4, 4, 3, requires_grad=True)
    loss = run(ListwiseKL(), rows, teacher=(rows[:, :1] * rows[:, 1:]).sum(-1).detach()).loss
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert rows.grad.abs().max() < 1e-6


def test_errors():
    for name in ("student_temperature", "teacher_temperature"):
        with pytest.raises(UserError, match=f"{name} is 0"):
            ListwiseKL(**{name: 0})
    rows = torch.randn(3, 4, 5)
    with pytest.raises(ValueError, match=r"ListwiseKL needs Batch\.teacher"):
        run(ListwiseKL(), rows)
    with pytest.raises(ValueError, match="a row has 3, and 2 scores"):
        run(ListwiseKL(), rows, teacher=torch.zeros(3, 2))
    with pytest.raises(ValueError, match="two or more texts"):
        run(ListwiseKL(), rows[:, :2], teacher=torch.zeros(3, 1))
