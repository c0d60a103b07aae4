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
    agrees(run(CLAIF(), torch.stack([u, v], 1), score=data["y"]), about, data, {"u": u, "v": v})


def test_by_pencil():
    # cosines 1, 0 and -1 against scores 1, 1/2 and 0: (0 + 1/4 + 1) / 3
    rows = torch.tensor([[[1.0, 0.0], [3.0, 0.0]], [[1.0, 0.0], [0.0, 2.0]], [[1.0, 1.0], [-1.0, -1.0]]])
    output = run(CLAIF(), rows, score=torch.tensor([1.0, 0.5, 0.0]))
    assert output.loss.item() == pytest.approx(1.25 / 3)
    assert output.metrics["rmse"].item() == pytest.approx(math.sqrt(1.25 / 3))


def test_it_is_0_where_scores_are_the_cosines():
    rows = torch.randn(5, 2, 4).abs()
    cosine = torch.nn.functional.cosine_similarity(rows[:, 0], rows[:, 1])
    assert run(CLAIF(), rows, score=cosine).loss.item() == pytest.approx(0.0, abs=1e-12)


def test_a_row_of_weight_2_counts_twice_and_one_of_weight_0_not_at_all():
    rows, score = torch.randn(4, 2, 5), torch.rand(4)
    index = [0, 0, 1, 3]
    got = run(CLAIF(), rows, score=score, weight=torch.tensor([2.0, 1.0, 0.0, 1.0])).loss
    assert got.item() == pytest.approx(run(CLAIF(), rows[index], score=score[index]).loss.item(), rel=1e-6)
    assert run(CLAIF(), rows, score=score, weight=torch.ones(4)).loss == run(CLAIF(), rows, score=score).loss
    assert run(CLAIF(), rows, score=score, weight=torch.zeros(4)).loss == 0


def test_errors():
    rows = torch.randn(3, 2, 4)
    with pytest.raises(ValueError, match=r"CLAIF needs Batch\.score"):
        run(CLAIF(), rows)
    for bad in (1.5, -0.1, math.nan):
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            run(CLAIF(), rows, score=torch.tensor([0.5, bad, 0.1]))
    with pytest.raises(ValueError, match="two texts of a row"):
        run(CLAIF(), torch.randn(3, 3, 4), score=torch.zeros(3))
