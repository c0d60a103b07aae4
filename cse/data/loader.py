"""The data of a DataLoader: the rows of each step of a run, and the batch made from given rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch

from cse.batch import Batch, Example
from cse.data.samplers import MANY, Batches, Permuted, shuffled
from cse.encoder.model import Encoder
from cse.errors import UserError
from cse.interfaces import Collator, RowSource


class Rows(torch.utils.data.Dataset[Batch]):
    """A data set of batches, addressed by lists of (epoch, row), with a collator for each source by name."""

    def __init__(self, data: Sequence[Example], collators: Mapping[str, Collator]) -> None:
        self.data, self.collators = data, collators

    def __getitems__(self, items: list[tuple[int, int]]) -> Batch:
        """The batch of these rows, which belong to one source and one epoch of it."""
        examples = [self.data[row] for _, row in items]
        source = examples[0].source
        return replace(self.collators[source](examples, items[0][0]), source=source)

    @staticmethod
    def collate(batch: Batch) -> Batch:
        """The batch itself: `__getitems__` has collated the rows already."""
        return batch


class FixedRows(RowSource):
    """The rows of the data, which do not change during training."""

    def setup(self, data: Sequence[Example], steps_per_epoch: int) -> None:
        """Keep the rows."""
        self._data = data

    def texts(self) -> Sequence[str]:
        """No texts besides those of the data."""
        return ()

    def widest(self) -> Sequence[Example]:
        """The rows of the data."""
        return self._data

    def rows(self, step: int, encoder: Encoder) -> tuple[Sequence[Example], None]:
        """The rows of the data; they are valid to the end of the run."""
        return self._data, None

    def describe(self) -> str:
        """An empty text, since unchanged rows need no description."""
        return ""


class Steps(ABC):
    """The rows of every optimizer step as a function of the step, so that a run can start at any step.

    The rows do not depend on the number of processes.

    Attributes:
        accumulation: Number of parts of a step, each with its own negatives.
        steps_per_epoch: Number of steps of the first pass over the data.
        max_steps: Number of steps of the run.
    """

    accumulation: int
    steps_per_epoch: int
    max_steps: int

    @abstractmethod
    def of_step(self, step: int) -> tuple[int, list[int]]:
        """The epoch and the rows of a step, over all processes."""

    @abstractmethod
    def firsts(self) -> dict[str, tuple[int, list[int]]]:
        """The epoch and the rows of the first step of every source, by name, to try them before the run begins."""

    @abstractmethod
    def figures(self, step: int) -> dict[str, float]:
        """Give the metrics of the choice of rows in the steps before `step`."""

    def of_process(self, step: int, rank: int, processes: int, last: int | None = None) -> ProcessBatches:
        """The share of one process of each part of each step, from `step` to before `last`."""
        return ProcessBatches(self, step, rank, processes, self.max_steps if last is None else last)

    def divided(self, epoch: int, rows: Sequence[int], rank: int, processes: int) -> Iterator[list[tuple[int, int]]]:
        """The share of one process of each part of a step's rows, as lists of (epoch, row)."""
        size = len(rows) // self.accumulation
        share = size // processes
        for part in range(self.accumulation):
            start = part * size + rank * share
            yield [(epoch, row) for row in rows[start : start + share]]


class StepBatches(Steps):
    """The steps of one data set.

    Each epoch is a new permutation of the data; rows left over at its end are dropped, since a smaller batch would
    have fewer negatives. See `steps_of_run` for the number of steps. `draw` gives the parts (n, batch_size /
    accumulation) of an epoch, as a `Sampler` does; None: a random order.
    """

    def __init__(
        self,
        rows: int,
        batch_size: int,
        accumulation: int,
        seed: int,
        *,
        max_steps: int | None,
        cap_steps: int | None = None,
        epochs: float,
        draw: Callable[[int], Batches] | None = None,
    ) -> None:
        self.rows, self.batch_size, self.accumulation, self.seed = rows, batch_size, accumulation, seed
        self._draw = lru_cache(maxsize=2)(draw or self._permutation)
        self._ends: list[int] = []  # the step after each epoch
        self.steps_per_epoch = self._end(0)
        self.max_steps = steps_of_run(self.steps_per_epoch, max_steps, cap_steps, epochs)

    def of_step(self, step: int) -> tuple[int, list[int]]:
        """The epoch and the rows of a step, over all processes."""
        while not self._ends or self._ends[-1] <= step:
            self._end(len(self._ends))
        epoch = bisect_right(self._ends, step)
        start = (step - (self._ends[epoch - 1] if epoch else 0)) * self.accumulation
        return epoch, np.concatenate(self._draw(epoch)[start : start + self.accumulation]).tolist()

    def firsts(self) -> dict[str, tuple[int, list[int]]]:
        """The first step."""
        return {"": self.of_step(0)}

    def figures(self, step: int) -> dict[str, float]:
        """Nothing, since every row has the same chance."""
        return {}

    def _end(self, epoch: int) -> int:
        """The step after an epoch; those of earlier epochs must be known."""
        if epoch == len(self._ends):
            steps = len(self._draw(epoch)) // self.accumulation
            if not steps:
                raise UserError(
                    f"trainer.accumulation is {self.accumulation}, but the sampler finds fewer batches in the data\n"
                    "fix: give a smaller trainer.accumulation or trainer.batch_size"
                )
            self._ends.append(steps + (self._ends[-1] if epoch else 0))
        return self._ends[epoch]

    def _permutation(self, epoch: int) -> Batches | Permuted:
        size = self.batch_size // self.accumulation
        if self.rows > MANY:
            return Permuted(self.rows, size, self.seed, epoch)
        kept = self.rows // self.batch_size * self.batch_size
        return shuffled(self.rows, self.seed, epoch)[:kept].reshape(-1, size)


def steps_of_run(each: int, max_steps: int | None, cap_steps: int | None, epochs: float) -> int:
    """The steps of a run: `max_steps`, or else those of `epochs` passes of `each` steps, up to `cap_steps`."""
    by_epochs = max(1, round(each * epochs))
    return max_steps or (by_epochs if cap_steps is None else min(by_epochs, cap_steps))


class ProcessBatches:
    """A batch sampler for a DataLoader: a list of (epoch, row) for each part of each step."""

    def __init__(self, steps: Steps, first_step: int, rank: int, processes: int, last_step: int) -> None:
        self.steps, self.first_step, self.last_step = steps, first_step, last_step
        self.rank, self.processes = rank, processes

    def __len__(self) -> int:
        return (self.last_step - self.first_step) * self.steps.accumulation

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.first_step, self.last_step):
            yield from self.steps.divided(*self.steps.of_step(step), self.rank, self.processes)
