"""What a DataLoader loads: the batch of given rows of an epoch."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cse.batch import Batch, Example
from cse.interfaces import Collator


class Rows(torch.utils.data.Dataset[Batch]):
    """Batches by their list of (epoch, row)."""

    def __init__(self, data: Sequence[Example], collator: Collator) -> None:
        self.data, self.collator = data, collator

    def __getitems__(self, items: list[tuple[int, int]]) -> Batch:
        """The batch of these rows, all of one epoch."""
        return self.collator([self.data[row] for _, row in items], items[0][0])

    @staticmethod
    def collate(batch: Batch) -> Batch:
        """As it is: the rows were collated where they were read."""
        return batch
