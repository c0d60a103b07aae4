"""Samplers decide which rows share a batch."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cse.batch import Example
from cse.errors import UserError, require_at_least
from cse.interfaces import Sampler
from cse.seeding import torch_rng

Batches = NDArray[np.int64]  # (n, size) numbers of rows
TRIES = 64  # number of batches that are tried for an item


class NoDuplicates(Sampler):
    """Puts no text into two rows of a batch, so that nothing is masked as a false negative.

    Rows are taken in a random order; each goes into the first batch that has room and contains none of its texts.
    Batches that are not full at the end of the data are dropped. Texts must be exactly equal to count as the same, and
    negatives that are mined during training are not considered.
    """

    def batches(self, data: Sequence[Example], size: int, seed: int, epoch: int) -> Batches:
        """The batches of an epoch: numbers of rows (n, size).

        Raises:
            UserError: No batch can be filled with rows without a common text.
        """
        order = shuffled(len(data), seed, epoch)
        packed = pack(order, [set(data[row].texts) for row in order], size)
        if not len(packed):
            raise UserError(
                f"sampler NoDuplicates finds no {size} of the {len(data)} rows without a common text\n"
                "fix: give a smaller trainer.batch_size, or omit the sampler, since the loss masks equal texts"
            )
        return packed


class LabelBatches(Sampler):
    """Draws K rows of each of P labels, for objectives that contrast labels (PK batches, arXiv:1703.07737, section 2).

    A batch of `size` rows has K = size / P rows of each of P labels; rows of one label are adjacent. Each epoch divides
    the rows of every label into random groups of K. Rows left over are not seen in this epoch, and labels with fewer
    than K rows are never seen.

    Args:
        labels: The number P of labels in a batch.
    """

    def __init__(self, *, labels: int) -> None:
        require_at_least(2, "sampler", labels=labels)  # one label alone has nothing to contrast with
        self.labels = labels

    def batches(self, data: Sequence[Example], size: int, seed: int, epoch: int) -> Batches:
        """The batches of an epoch: numbers of rows (n, size).

        Raises:
            UserError: P does not divide the batch, rows have no label, or fewer than P labels have K rows.
        """
        if size % self.labels:
            raise UserError(
                f"sampler.labels is {self.labels}, which does not divide a batch of {size} rows\n"
                "fix: make trainer.batch_size / trainer.accumulation a multiple of sampler.labels"
            )
        each = size // self.labels
        groups = _groups(data, each, seed, epoch, "LabelBatches")
        enough = len({label for label, _ in groups})
        if enough < self.labels:
            raise UserError(
                f"sampler.labels is {self.labels}, but only {enough} labels have the {each} rows that a batch takes\n"
                "fix: give a smaller sampler.labels or trainer.batch_size, or more rows for each label"
            )
        order = shuffled(len(groups), seed, epoch)
        packed = pack(order, [{groups[i][0]} for i in order], self.labels)  # (n, P) indices of groups
        return np.array([group for _, group in groups])[packed].reshape(len(packed), size)


class ClusterBatches(Sampler):
    """Draws every batch from one label, such as the number of a cluster, so that in-batch negatives are hard.

    Each epoch divides the rows of every cluster into random batches, in random order. Rows left over are not seen in
    this epoch, and clusters with fewer rows than a batch are never seen.
    """

    def batches(self, data: Sequence[Example], size: int, seed: int, epoch: int) -> Batches:
        """The batches of an epoch: numbers of rows (n, size).

        Raises:
            UserError: Rows have no label, or no label has enough rows for a batch.
        """
        groups = _groups(data, size, seed, epoch, "ClusterBatches")
        if not groups:
            raise UserError(
                f"sampler ClusterBatches: no cluster of the data has the {size} rows of a batch\n"
                "fix: give a smaller trainer.batch_size, or fewer and larger clusters"
            )
        return np.array([groups[i][1] for i in shuffled(len(groups), seed, epoch)])


def shuffled(count: int, seed: int, epoch: int) -> list[int]:
    """The random permutation of an epoch."""
    import torch

    order: list[int] = torch.randperm(count, generator=torch_rng(seed, "order", epoch)).tolist()
    return order


def _groups(data: Sequence[Example], size: int, seed: int, epoch: int, name: str) -> list[tuple[int, list[int]]]:
    """Random groups of `size` rows with the same label, as (label, rows)."""
    rows_of: dict[int, list[int]] = {}
    for row in shuffled(len(data), seed, epoch):
        label = data[row].label
        if label is None:
            raise UserError(f"sampler {name} needs labels, but the data has none\nfix: --data.label_column=NAME")
        rows_of.setdefault(label, []).append(row)
    return [(c, r[i : i + size]) for c, r in rows_of.items() for i in range(0, len(r) - size + 1, size)]


def pack(items: Sequence[int], keys: Sequence[set[Any]], size: int) -> NDArray[np.int64]:
    """Pack items into batches (n, size) in which no two items have a common key.

    Each item goes into the first batch that has room and contains none of its keys. Batches that are not full are
    dropped.
    """
    batches: list[list[int]] = []
    room = _Room(size, batches)
    within: dict[Hashable, set[int]] = {}  # the batches that contain a key
    after: dict[Hashable, int] = {}  # the first batch after all of these
    for item, own in zip(items, keys, strict=True):
        at, tries = room.first(0), 0
        while any(at in within.get(key, ()) for key in own):
            tries += 1
            # After TRIES batches, the item goes behind the last batch with one of its keys, since a key of very many
            # items would take quadratic time otherwise.
            at = room.first(at + 1 if tries < TRIES else max(after.get(key, 0) for key in own))
        if at == len(batches):
            batches.append([])
        batches[at].append(item)
        for key in own:
            within.setdefault(key, set()).add(at)
            after[key] = max(after.get(key, 0), at + 1)
    return np.array([batch for batch in batches if len(batch) == size], dtype=np.int64).reshape(-1, size)


class _Room:
    """Finds batches that are not full: a union-find forest over the full ones, with path halving."""

    def __init__(self, size: int, batches: list[list[int]]) -> None:
        self.size, self.batches, self._next = size, batches, dict[int, int]()

    def first(self, at: int) -> int:
        """The index of the first batch from `at` on that has room; that of a new batch if there is none."""
        while at < len(self.batches) and len(self.batches[at]) == self.size:
            following = self._next.get(at, at + 1)
            self._next[at] = self._next.get(following, following)
            at = following
        return at
