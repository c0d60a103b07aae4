"""What every objective must satisfy when its rows are cut: chunks of gradient caching, blocks of rows, processes."""

import numpy as np
import pytest

from cse.training.learner import Learner
from tests.objectives.contract import (
    assert_equal,
    batch_of,
    build,
    context,
    every_objective,
    gradients,
    loss_and_gradients,
    parts_of,
    small_blocks,
)

WHOLE = {
    "AnglE": "it compares all ordered pairs of scored pairs",
    "ClipKD": "a teacher's matrix is compared with that of the batch, in both directions",
    "CoSENT": "it compares all ordered pairs of scored pairs",
    "ConGraT": "a similarity counts by its rank in its row and in its column",
    "DCLR": "noise ascends on the loss of all rows, and a complement judges all pairs",
    "RankCSE": "the matrix is compared with its transpose, and with those of teachers",
}


@every_objective
def test_cached_gradients_of_blocks_of_rows_are_those_of_the_whole_matrix(name, tiny_bert, monkeypatch):
    """Cached by tokens, where it may be. What needs the whole matrix is listed with the reason, and refuses blocks."""
    encoder, objective = build(name, tiny_bert)
    learner, batch = Learner(encoder, objective), batch_of(name, encoder)
    output = learner(batch, context(encoder, batch))[1]
    output.loss.backward()
    want, metrics = gradients(learner), {n: float(m) for n, m in output.metrics.items()}
    learner.zero_grad()
    with monkeypatch.context() as patch:
        small_blocks(patch)
        if name in WHOLE:
            with pytest.raises(ValueError, match="needs the whole matrix"):
                learner(batch, context(encoder, batch))
            patch.undo()
        again = parts_of(learner, batch, context(encoder, batch))
    assert again.loss.item() == pytest.approx(output.loss.item(), rel=1e-10)
    assert {n: float(m) for n, m in again.metrics.items()} == pytest.approx(metrics, rel=1e-6)
    got = gradients(learner)
    assert got.keys() == want.keys()
    assert max(np.abs(got[n] - want[n]).max() for n in want) < 1e-10


@every_objective
def test_two_processes_are_one(name, two_processes, tiny_bert):
    want, gradient = loss_and_gradients(0, tiny_bert, name)
    for loss, found in two_processes(loss_and_gradients, tiny_bert, name):
        assert loss == pytest.approx(want, rel=1e-6)
        assert_equal(found, gradient)


@pytest.mark.parametrize("name", ["SimCSE", "DCLW", "EuCLIP", "GTE", "InfoLOOB", "Momentum"])
def test_two_processes_share_the_blocks_of_rows(name, two_processes, tiny_bert):
    """Anchors, all views, a weight of the objective's own, both texts of a row, a second matrix, and a queue."""
    want, gradient = loss_and_gradients(0, tiny_bert, name)
    for loss, found in two_processes(loss_and_gradients, tiny_bert, name, True):
        assert loss == pytest.approx(want, rel=1e-10)
        assert_equal(found, gradient)


@pytest.mark.slow
@every_objective
def test_four_processes_are_one_whole_and_in_blocks(name, four_processes, two_processes, tiny_bert):
    """The blocks are those of cached gradients, where the objective allows it."""
    want, gradient = loss_and_gradients(0, tiny_bert, name)
    for processes in (two_processes, four_processes):
        for small in (False, True)[: 1 if name in WHOLE else 2]:
            for loss, found in processes(loss_and_gradients, tiny_bert, name, small):
                assert loss == pytest.approx(want, rel=1e-6)
                assert_equal(found, gradient)
