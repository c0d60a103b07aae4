"""Which rows share a batch."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import torch

from cse.seeding import torch_rng


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
        epochs: Passes over the data.
    """

    def __init__(
        self, rows: int, batch_size: int, accumulation: int, seed: int, *, max_steps: int | None, epochs: float
    ) -> None:
        self.rows, self.batch_size, self.accumulation, self.seed = rows, batch_size, accumulation, seed
        self.steps_per_epoch = rows // batch_size
        self.max_steps = max_steps or max(1, round(self.steps_per_epoch * epochs))
        self._order = lru_cache(maxsize=2)(self._permutation)

    def of_step(self, step: int) -> tuple[int, list[int]]:
        """Epoch and rows of a step, over all processes."""
        epoch, position = divmod(step, self.steps_per_epoch)
        start = position * self.batch_size
        chosen: list[int] = self._order(epoch)[start : start + self.batch_size].tolist()
        return epoch, chosen

    def of_process(self, step: int, rank: int, processes: int) -> ProcessBatches:
        """What one process loads from `step` on: its share of each part of each step."""
        return ProcessBatches(self, step, rank, processes)

    def _permutation(self, epoch: int) -> torch.Tensor:
        return torch.randperm(self.rows, generator=torch_rng(self.seed, "order", epoch))


class ProcessBatches:
    """A DataLoader's batch sampler: a list of (epoch, row) for each part of each step."""

    def __init__(self, batches: StepBatches, first_step: int, rank: int, processes: int) -> None:
        self.batches, self.first_step, self.rank, self.processes = batches, first_step, rank, processes

    def __len__(self) -> int:
        return (self.batches.max_steps - self.first_step) * self.batches.accumulation

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        size = self.batches.batch_size // self.batches.accumulation
        share = size // self.processes
        for step in range(self.first_step, self.batches.max_steps):
            epoch, rows = self.batches.of_step(step)
            for part in range(self.batches.accumulation):
                start = part * size + self.rank * share
                yield [(epoch, row) for row in rows[start : start + share]]
