"""CLAIF and CoSENT: oracles, pencil, limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cse.errors import UserError
from cse.objectives.claif import CLAIF
from cse.objectives.cosent import CoSENT
from tests.objectives.helpers import close, run, settings


def test_every_case_of_cosine_regression(oracles):
    cases = [n for n, c in settings(oracles, "claif").items() if "loss" in c and "smooth" not in c]
    assert cases
    for name in cases:
        data = np.load(oracles / f"claif_{name}.npz")
        u, v = (torch.tensor(data[k]).requires_grad_() for k in "uv")
        loss = run(CLAIF(), torch.stack([u, v], 1), score=torch.tensor(data["y"])).loss
        loss.backward()
        assert loss.item() == pytest.approx(settings(oracles, "claif")[name]["loss"], rel=1e-5)
        close(u.grad, data["grad_u"])
        close(v.grad, data["grad_v"])


def test_claif_by_pencil():
    # cosines 1, 0 and -1 against scores 1, 1/2 and 0: (0 + 1/4 + 1) / 3
    rows = torch.tensor([[[1.0, 0.0], [3.0, 0.0]], [[1.0, 0.0], [0.0, 2.0]], [[1.0, 1.0], [-1.0, -1.0]]])
    output = run(CLAIF(), rows, score=torch.tensor([1.0, 0.5, 0.0]))
    assert output.loss.item() == pytest.approx(1.25 / 3)
    assert output.metrics["rmse"].item() == pytest.approx(math.sqrt(1.25 / 3))


def test_claif_is_0_where_scores_are_the_cosines():
    rows = torch.randn(5, 2, 4).abs()
    cosine = torch.nn.functional.cosine_similarity(rows[:, 0], rows[:, 1])
    assert run(CLAIF(), rows, score=cosine).loss.item() == pytest.approx(0.0, abs=1e-12)


def test_cosent_equals_a_direct_loop():
    rows, score = torch.randn(8, 2, 5, dtype=torch.float64), torch.tensor([0.1, 0.5, 0.5, 0.9, 0.0, 1.0, 0.3, 0.5])
    c = torch.nn.functional.cosine_similarity(rows[:, 0], rows[:, 1])
    total = 1.0
    for i in range(8):
        for j in range(8):
            if score[i] > score[j]:
                total += math.exp((c[j] - c[i]).item() / 0.1)
    assert run(CoSENT(temperature=0.1), rows, score=score).loss.item() == pytest.approx(math.log(total), rel=1e-6)


def test_cosent_by_pencil():
    # One ordered pair: the better one has cosine 0, the worse one 1: log(1 + e^{1/t})
    rows = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]])
    output = run(CoSENT(temperature=0.5), rows, score=torch.tensor([0.8, 0.2]))
    assert output.loss.item() == pytest.approx(math.log(1 + math.exp(2)), rel=1e-6)
    assert output.metrics["inversions"] == 1


def test_cosent_of_equal_scores_is_0_with_a_gradient_of_0():
    rows = torch.randn(4, 2, 3, requires_grad=True)
    loss = run(CoSENT(), rows, score=torch.full((4,), 0.5)).loss
    loss.backward()
    assert loss.item() == 0
    assert (rows.grad == 0).all()


@pytest.mark.parametrize("objective", [CLAIF(), CoSENT()])
def test_errors(objective):
    name = type(objective).__name__
    rows = torch.randn(3, 2, 4)
    with pytest.raises(ValueError, match=rf"{name} needs Batch\.score"):
        run(objective, rows)
    for bad in (1.5, -0.1, math.nan):
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            run(objective, rows, score=torch.tensor([0.5, bad, 0.1]))
    with pytest.raises(ValueError, match="two texts of a row"):
        run(objective, torch.randn(3, 3, 4), score=torch.zeros(3))
    with pytest.raises(UserError, match="temperature"):
        CoSENT(temperature=0.0)
