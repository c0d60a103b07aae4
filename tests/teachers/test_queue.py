"""Queues: by hand, and against the authors' programs."""

import numpy as np
import pytest
import torch

from cse.teachers.queue import Queue
from tests.cases import cases, load
from tests.objectives.helpers import refuses


def test_the_oldest_rows_make_room():
    queue = Queue(3, 1)
    assert queue.rows().shape == (0, 1)
    for pushed, want in (
        ([1.0, 2.0], [1, 2]),
        ([3.0, 4.0], [2, 3, 4]),
        ([5.0, 6.0, 7.0, 8.0], [6, 7, 8]),
        ([], [6, 7, 8]),
    ):
        queue.push(torch.tensor(pushed)[:, None])
        assert queue.rows()[:, 0].tolist() == want


def test_its_state_is_its_rows():
    queue, again = Queue(4, 2), Queue(4, 2)
    queue.push(torch.randn(3, 2))
    again.load_state_dict(queue.state_dict())
    assert torch.equal(again.rows(), queue.rows())
    assert not list(queue.parameters())


def test_a_queue_of_size_0_is_empty():
    queue = Queue(0, 2)
    queue.push(torch.randn(3, 2))
    assert queue.rows().shape == (0, 2)
    refuses(r"Queue\.size is -1", Queue, -1, 2)


@pytest.mark.parametrize("name", cases("momentum", "esimcse_fifo", has=()))
def test_every_queue_of_esimcse(name):
    about, data = load("momentum", name)
    queue = Queue(about["neg_size"], data["keys"].shape[-1])
    for step, keys in enumerate(data["keys"]):
        assert len(queue.rows()) == about["columns_used_by_the_loss_at_each_step"][step]
        queue.push(keys)
        want = data[f"queue_after_{step}"][-about["neg_size"] :]  # theirs does not cut the first batch
        np.testing.assert_array_equal(queue.rows().numpy(), want)


@pytest.mark.parametrize("name", cases("momentum", "mocose_fifo", has=()))
def test_every_queue_of_mocose(name):
    """Theirs is newest first, and of a batch that is too old in part it drops the last rows, ours the first."""
    about, data = load("momentum", name)
    queue = Queue(about["queue"], data["keys"].shape[-1])
    stored = data["start"]  # of which the loss reads more than `start_size`, the number that theirs counts at first
    queue.push(stored.flip(0))
    for step, keys in enumerate(data["keys"]):
        used = about["columns_used_by_the_loss_at_each_step"][step]
        np.testing.assert_array_equal(queue.rows().flip(0).numpy(), stored[:used])
        queue.push(keys.flip(0))
        stored = data[f"queue_after_{step}"]
