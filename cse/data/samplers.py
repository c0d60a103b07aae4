"""Which rows share a batch."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from cse.batch import Example
from cse.data.packing import pack
from cse.errors import UserError, require_at_least
from cse.interfaces import Sampler
from cse.seeding import torch_rng

Batches = NDArray[np.int64]  # (n, size) row numbers


class NoDuplicates(Sampler):
    """No text stands in two rows of a batch, so that nothing is masked as a false negative.

    Rows are taken in a random order, each into the first batch that has room and none of its texts. Batches that are
    not full at the end of the data are dropped. Texts are compared as they are, and as they are in the data: negatives
    that are mined during training do not move a row.
    """

    def batches(self, data: Sequence[Example], size: int, seed: int, epoch: int) -> Batches:
        """(n, size) row numbers of an epoch's batches.

        Raises:
            UserError: There are fewer rows of different texts than a batch has.
        """
        order = _shuffled(len(data), seed, epoch)
        packed = pack(order, [set(data[row].texts) for row in order], size)
        if not len(packed):
            raise UserError(
                f"sampler NoDuplicates: no {size} of the data's {len(data)} rows are without a text in common\n"
                "fix: a smaller trainer.batch_size, or leave the sampler out: equal texts are masked in the loss"
            )
        return packed


class LabelBatches(Sampler):
    """P labels x K rows of each, for objectives that contrast labels (PK batches, arXiv:1703.07737, section 2).

    A batch of `size` rows holds K = size / P rows of each of P labels, the rows of a label side by side. Each epoch
    cuts every label's rows into random groups of K; rows left over wait for another epoch, and a label with fewer
    than K rows is never seen.

    Args:
        labels: P, the labels in a batch.
    """

    def __init__(self, *, labels: int) -> None:
        require_at_least(2, "sampler", labels=labels)  # with one label there is nothing to tell apart
        self.labels = labels

    def batches(self, data: Sequence[Example], size: int, seed: int, epoch: int) -> Batches:
        """(n, size) row numbers of an epoch's batches.

        Raises:
            UserError: P does not divide the batch, rows have no label, or fewer than P labels have K rows.
        """
        if size % self.labels:
            raise UserError(
                f"sampler.labels is {self.labels}, which does not divide a batch of {size} rows\n"
                "fix: a trainer.batch_size (over trainer.accumulation) that is a multiple of sampler.labels"
            )
        each = size // self.labels
        groups = _groups(data, each, seed, epoch, "LabelBatches")
        enough = len({label for label, _ in groups})
        if enough < self.labels:
            raise UserError(
                f"sampler.labels is {self.labels}, but only {enough} labels have the {each} rows that a batch takes\n"
                "fix: a smaller sampler.labels or trainer.batch_size, or more rows a label"
            )
        order = _shuffled(len(groups), seed, epoch)
        packed = pack(order, [{groups[i][0]} for i in order], self.labels)  # (n, P) numbers of groups
        return np.array([group for _, group in groups])[packed].reshape(len(packed), size)


class ClusterBatches(Sampler):
    """Every batch is of one label, such as a cluster's number, so that in-batch negatives are hard.

    Each epoch cuts every cluster's rows into random batches, and mixes their order. Rows left over wait for another
    epoch, and a cluster with fewer rows than a batch is never seen.
    """

    def batches(self, data: Sequence[Example], size: int, seed: int, epoch: int) -> Batches:
        """(n, size) row numbers of an epoch's batches.

        Raises:
            UserError: Rows have no label, or no label has enough rows for a batch.
        """
        groups = _groups(data, size, seed, epoch, "ClusterBatches")
        if not groups:
            raise UserError(
                f"sampler ClusterBatches: no cluster of the data has the {size} rows of a batch\n"
                "fix: a smaller trainer.batch_size, or fewer and larger clusters"
            )
        return np.array([groups[i][1] for i in _shuffled(len(groups), seed, epoch)])


def _shuffled(count: int, seed: int, epoch: int) -> list[int]:
    """A permutation of an epoch."""
    import torch

    order: list[int] = torch.randperm(count, generator=torch_rng(seed, "order", epoch)).tolist()
    return order


def _groups(data: Sequence[Example], size: int, seed: int, epoch: int, name: str) -> list[tuple[int, list[int]]]:
    """(label, rows) of random groups of `size` rows of one label."""
    rows_of: dict[int, list[int]] = {}
    for row in _shuffled(len(data), seed, epoch):
        label = data[row].label
        if label is None:
            raise UserError(f"sampler {name} needs labels, and the data has none\nfix: data.init_args.label_column")
        rows_of.setdefault(label, []).append(row)
    return [(c, r[i : i + size]) for c, r in rows_of.items() for i in range(0, len(r) - size + 1, size)]


class StepBatches:
    """The rows of every optimizer step, as a function of the step: a run can start at any, on any number of processes.

    Each epoch is its own permutation of the data; the rows left over at its end are dropped, since a smaller batch
    would have fewer negatives.

    Args:
        rows: Size of the data, at least one batch.
        batch_size: Rows of an optimizer step, over all processes.
        accumulation: Parts of a step, each with its own negatives.
        seed: The run's.
        max_steps: Steps of the run. None: as many as `epochs` gives.
        epochs: Passes over the data, each as long as the first.
        draw: An epoch's parts (n, batch_size / accumulation) as a `Sampler` draws them. None: a random order.

    Raises:
        UserError: An epoch has fewer parts than a step.
    """

    def __init__(
        self,
        rows: int,
        batch_size: int,
        accumulation: int,
        seed: int,
        *,
        max_steps: int | None,
        epochs: float,
        draw: Callable[[int], Batches] | None = None,
    ) -> None:
        self.rows, self.batch_size, self.accumulation, self.seed = rows, batch_size, accumulation, seed
        self._draw = lru_cache(maxsize=2)(draw or self._permutation)
        self._ends: list[int] = []  # the step after each epoch
        self.steps_per_epoch = self._end(0)
        self.max_steps = max_steps or max(1, round(self.steps_per_epoch * epochs))

    def of_step(self, step: int) -> tuple[int, list[int]]:
        """Epoch and rows of a step, over all processes."""
        while not self._ends or self._ends[-1] <= step:
            self._end(len(self._ends))
        epoch = bisect_right(self._ends, step)
        start = (step - (self._ends[epoch - 1] if epoch else 0)) * self.accumulation
        chosen: list[int] = self._draw(epoch)[start : start + self.accumulation].flatten().tolist()
        return epoch, chosen

    def of_process(self, step: int, rank: int, processes: int, last: int | None = None) -> ProcessBatches:
        """What one process loads from `step` on, to before `last`: its share of each part of each step."""
        return ProcessBatches(self, step, rank, processes, self.max_steps if last is None else last)

    def _end(self, epoch: int) -> int:
        """The step after an epoch, once those before are known."""
        if epoch == len(self._ends):
            steps = len(self._draw(epoch)) // self.accumulation
            if not steps:
                raise UserError(
                    f"trainer.accumulation is {self.accumulation}, but the sampler finds fewer batches in the data\n"
                    "fix: a smaller trainer.accumulation or trainer.batch_size"
                )
            self._ends.append(steps + (self._ends[-1] if epoch else 0))
        return self._ends[epoch]

    def _permutation(self, epoch: int) -> Batches:
        kept = self.rows // self.batch_size * self.batch_size
        order = np.array(_shuffled(self.rows, self.seed, epoch)[:kept], dtype=np.int64)
        return order.reshape(-1, self.batch_size // self.accumulation)


class ProcessBatches:
    """A DataLoader's batch sampler: a list of (epoch, row) for each part of each step."""

    def __init__(self, batches: StepBatches, first_step: int, rank: int, processes: int, last_step: int) -> None:
        self.batches, self.first_step, self.last_step = batches, first_step, last_step
        self.rank, self.processes = rank, processes

    def __len__(self) -> int:
        return (self.last_step - self.first_step) * self.batches.accumulation

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        size = self.batches.batch_size // self.batches.accumulation
        share = size // self.processes
        for step in range(self.first_step, self.last_step):
            epoch, rows = self.batches.of_step(step)
            for part in range(self.batches.accumulation):
                start = part * size + self.rank * share
                yield [(epoch, row) for row in rows[start : start + share]]
