"""CoSENT: a direct loop, pencil, limits."""

import math

import pytest
import torch

from cse.errors import UserError
from cse.objectives.cosent import CoSENT
from tests.objectives.helpers import Case, run


def contract_case(backbone):
    return Case(texts=2)


def test_it_equals_a_direct_loop():
    rows, score = torch.randn(8, 2, 5, dtype=torch.float64), torch.tensor([0.1, 0.5, 0.5, 0.9, 0.0, 1.0, 0.3, 0.5])
    c = torch.nn.functional.cosine_similarity(rows[:, 0], rows[:, 1])
    total = 1.0
    for i in range(8):
        for j in range(8):
            if score[i] > score[j]:
                total += math.exp((c[j] - c[i]).item() / 0.1)
    assert run(CoSENT(temperature=0.1), rows, score=score).loss.item() == pytest.approx(math.log(total), rel=1e-6)


def test_by_pencil():
    # One ordered pair: the better one has cosine 0, the worse one 1: log(1 + e^{1/t})
    rows = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]])
    output = run(CoSENT(temperature=0.5), rows, score=torch.tensor([0.8, 0.2]))
    assert output.loss.item() == pytest.approx(math.log(1 + math.exp(2)), rel=1e-6)
    assert output.metrics["inversions"] == 1


def test_equal_scores_give_0_with_a_gradient_of_0():
    rows = torch.randn(4, 2, 3, requires_grad=True)
    loss = run(CoSENT(), rows, score=torch.full((4,), 0.5)).loss
    loss.backward()
    assert loss.item() == 0
    assert (rows.grad == 0).all()


def test_a_row_of_weight_2_counts_twice_and_one_of_weight_0_not_at_all():
    rows, score = torch.randn(5, 2, 6, requires_grad=True), torch.tensor([0.1, 0.9, 0.5, 0.3, 0.5])
    index = [0, 0, 1, 1, 2, 4]
    got = run(CoSENT(), rows, score=score, weight=torch.tensor([2.0, 2.0, 1.0, 0.0, 1.0]))
    got.loss.backward()
    assert torch.isfinite(rows.grad).all()
    assert (rows.grad[3] == 0).all()
    assert got.loss.item() == pytest.approx(run(CoSENT(), rows[index], score=score[index]).loss.item(), rel=1e-5)
    assert run(CoSENT(), rows, score=score, weight=torch.ones(5)).loss == run(CoSENT(), rows, score=score).loss
    assert run(CoSENT(), rows, score=score, weight=torch.zeros(5)).loss == 0


def test_errors():
    rows = torch.randn(3, 2, 4)
    with pytest.raises(ValueError, match=r"CoSENT needs Batch\.score"):
        run(CoSENT(), rows)
    for bad in (1.5, -0.1, math.nan):
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            run(CoSENT(), rows, score=torch.tensor([0.5, bad, 0.1]))
    with pytest.raises(ValueError, match="two texts of a row"):
        run(CoSENT(), torch.randn(3, 3, 4), score=torch.zeros(3))
    with pytest.raises(UserError, match="temperature"):
        CoSENT(temperature=0.0)
