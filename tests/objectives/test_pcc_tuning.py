"""PccTuning: Pearson's correlation by scipy and its gradient by hand, scores of any scale, teachers, errors."""

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr

from cse import PccTuning, StepContext, Teacher
from tests.objectives.helpers import Case, close, run


def contract_case(backbone):
    return Case(texts=2, even=True, refuses={"batch of 2": "two always agree"})


class Says(Teacher):
    """A teacher that gives these scores (B, V - 1), and counts its steps."""

    def __init__(self, scores):
        super().__init__()
        self.said, self.steps, self.ready = scores, 0, False

    def setup(self, encoder):
        self.ready = True

    def follow(self, encoder):
        self.steps += 1

    def embed(self, batch, ctx):
        raise AssertionError("it is asked for scores")

    def scores(self, batch, ctx):
        return self.said


def cosines(rows):
    """Those of the first vector of each row with each of the others (B, V - 1), in numpy."""
    unit = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    return (unit[:, :1] * unit[:, 1:]).sum(-1)


def expected(rows, scores):
    return 1 - pearsonr(cosines(rows).ravel(), scores.ravel()).statistic


def drawn(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def test_scipy_and_differences_agree():
    rows, score = drawn(7, 2, 5).requires_grad_(), torch.rand(7, dtype=torch.float64)
    loss = run(PccTuning(), rows, score=score).loss
    loss.backward()
    given = rows.detach().numpy()
    assert loss.item() == pytest.approx(expected(given, score.numpy()), rel=1e-10)
    want, step = np.zeros_like(given), 1e-6
    for place in np.ndindex(given.shape):
        either = [given.copy(), given.copy()]
        either[0][place] -= step
        either[1][place] += step
        low, high = (expected(moved, score.numpy()) for moved in either)
        want[place] = (high - low) / (2 * step)
    close(rows.grad, want, 1e-7)


def test_all_pairs_of_a_batch_are_one_sample():
    """A teacher's scores of several texts in a row: the correlation of all, not the mean of those of rows."""
    rows, said = drawn(4, 4, 5), torch.rand(4, 3, dtype=torch.float64)
    teacher = Says(said)
    objective = PccTuning(teacher=teacher)
    assert objective.requires == frozenset()
    objective.setup(None)
    assert teacher.ready
    for positives in (1, 3):  # the others are hard negatives
        loss = run(objective, rows, positives).loss.item()
        assert loss == pytest.approx(expected(rows.numpy(), said.numpy()), rel=1e-9)
    objective.after_step(StepContext(encoder=None))
    assert teacher.steps == 1
    assert PccTuning().requires == {"score"}


@pytest.mark.parametrize("score", [0.25, 0.1, 0.0])  # the mean of seven 0.1 may be another number
@pytest.mark.parametrize("apart", [1.0, 1e-3])
def test_scores_that_are_equal_teach_nothing(score, apart):
    """Neither do those of pairs that are all about as far apart, as a trained encoder has them."""
    rows = torch.cat([torch.ones(7, 1, 4), 1 + apart * drawn(7, 1, 4).float()], 1).requires_grad_()
    loss = run(PccTuning(), rows, score=torch.full((7,), score)).loss
    loss.backward()
    assert loss.item() == 1
    assert not rows.grad.any()
