"""What a DataLoader loads: the batch of given rows of an epoch; and the rows of a run that never change."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cse.batch import Batch, Example
from cse.encoder.model import Encoder
from cse.interfaces import Collator, RowSource


class Rows(torch.utils.data.Dataset[Batch]):
    """Batches by their list of (epoch, row)."""

    def __init__(self, data: Sequence[Example], collator: Collator) -> None:
        self.data, self.collator = data, collator

    def __getitems__(self, items: list[tuple[int, int]]) -> Batch:
        """The batch of these rows, all of one epoch."""
        return self.collator([self.data[row] for _, row in items], items[0][0])

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
        """None besides those of the data."""
        return ()

    def widest(self) -> Sequence[Example]:
        """The rows of the data."""
        return self._data

    def rows(self, step: int, encoder: Encoder) -> tuple[Sequence[Example], None]:
        """The rows of the data, to the end of the run."""
        return self._data, None

    def describe(self) -> str:
        """Nothing: this is what a reader expects."""
        return ""
