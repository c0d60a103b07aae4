"""Which rows share a batch."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cse.batch import Example
from cse.errors import UserError, require_at_least
from cse.interfaces import Sampler
from cse.seeding import torch_rng

Batches = NDArray[np.int64]  # (n, size) row numbers
TRIES = 64  # batches that are tried for an item


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
        order = shuffled(len(data), seed, epoch)
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
        order = shuffled(len(groups), seed, epoch)
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
        return np.array([groups[i][1] for i in shuffled(len(groups), seed, epoch)])


def shuffled(count: int, seed: int, epoch: int) -> list[int]:
    """A permutation of an epoch."""
    import torch

    order: list[int] = torch.randperm(count, generator=torch_rng(seed, "order", epoch)).tolist()
    return order


def _groups(data: Sequence[Example], size: int, seed: int, epoch: int, name: str) -> list[tuple[int, list[int]]]:
    """(label, rows) of random groups of `size` rows of one label."""
    rows_of: dict[int, list[int]] = {}
    for row in shuffled(len(data), seed, epoch):
        label = data[row].label
        if label is None:
            raise UserError(f"sampler {name} needs labels, and the data has none\nfix: data.init_args.label_column")
        rows_of.setdefault(label, []).append(row)
    return [(c, r[i : i + size]) for c, r in rows_of.items() for i in range(0, len(r) - size + 1, size)]


def pack(items: Sequence[int], keys: Sequence[set[Any]], size: int) -> NDArray[np.int64]:
    """(n, size) items in batches without a key in common, each into the first batch that has room and none of its keys.

    After TRIES batches with one of its keys an item goes behind the last of them, so that a key of very many items
    takes no quadratic time.
    """
    batches: list[list[int]] = []
    room = _Room(size, batches)
    within: dict[Hashable, set[int]] = {}  # the batches that hold a key
    after: dict[Hashable, int] = {}  # the first batch behind them
    for item, own in zip(items, keys, strict=True):
        at, tries = room.first(0), 0
        while any(at in within.get(key, ()) for key in own):
            tries += 1
            at = room.first(at + 1 if tries < TRIES else max(after.get(key, 0) for key in own))
        if at == len(batches):
            batches.append([])
        batches[at].append(item)
        for key in own:
            within.setdefault(key, set()).add(at)
            after[key] = max(after.get(key, 0), at + 1)
    return np.array([batch for batch in batches if len(batch) == size], dtype=np.int64).reshape(-1, size)


class _Room:
    """Which batches are not full: a forest over those that are, whose paths are halved as they are walked."""

    def __init__(self, size: int, batches: list[list[int]]) -> None:
        self.size, self.batches, self._next = size, batches, dict[int, int]()

    def first(self, at: int) -> int:
        """The first batch from `at` on that has room; a new one if there is none."""
        while at < len(self.batches) and len(self.batches[at]) == self.size:
            following = self._next.get(at, at + 1)
            self._next[at] = self._next.get(following, following)
            at = following
        return at
