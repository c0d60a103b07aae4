"""Samplers decide which rows share a batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from cse.batch import Example
from cse.data.datasets import Dataset, Triplets
from cse.data.reading.numbering import Numbering, Numbers, Prints, fingerprints, without_collision
from cse.data.reading.texts import ByRow
from cse.errors import UserError, require_at_least
from cse.interfaces import Sampler
from cse.seeding import derive, python_rng, torch_rng

Batches = NDArray[np.int64]  # (n, size) numbers of rows
BLOCK = 16_384  # rows that are read at once
TRIES = 64  # number of batches that are tried for an item
MANY = 1 << 24  # rows above which the order of an epoch is computed rather than kept
ROUNDS = 6  # of the Feistel network


class NoDuplicates(Sampler):
    """Puts no text into two rows of a batch, so that nothing is masked as a false negative.

    Rows are taken in a random order; each goes into the first batch that has room and contains none of its texts.
    Batches that are not full at the end of the data are dropped. Texts must be exactly equal to count as the same, and
    negatives that are mined during training are not considered.
    """

    def batches(self, data: Sequence[Example], size: int, seed: int, epoch: int) -> Batches:
        order = shuffled(len(data), seed, epoch)
        packed = pack(order, _repeated_texts(data, order), size)
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
        if size % self.labels:
            raise UserError(
                f"sampler.labels is {self.labels}, which does not divide a batch of {size} rows\n"
                "fix: make trainer.batch_size / trainer.accumulation a multiple of sampler.labels"
            )
        each = size // self.labels
        labels, groups = _groups(data, each, seed, epoch, "LabelBatches")
        enough = len(np.unique(labels))
        if enough < self.labels:
            raise UserError(
                f"sampler.labels is {self.labels}, but only {enough} labels have the {each} rows that a batch takes\n"
                "fix: give a smaller sampler.labels or trainer.batch_size, or more rows for each label"
            )
        order = shuffled(len(groups), seed, epoch)
        packed = pack(order, ({label} for label in labels[order].tolist()), self.labels)  # (n, P) numbers of groups
        return groups[packed].reshape(len(packed), size)


class ClusterBatches(Sampler):
    """Draws every batch from one label, such as the number of a cluster, so that in-batch negatives are hard.

    Each epoch divides the rows of every cluster into random batches, in random order. Rows left over are not seen in
    this epoch, and clusters with fewer rows than a batch are never seen.
    """

    def batches(self, data: Sequence[Example], size: int, seed: int, epoch: int) -> Batches:
        _, groups = _groups(data, size, seed, epoch, "ClusterBatches")
        if not len(groups):
            raise UserError(
                f"sampler ClusterBatches: no cluster of the data has the {size} rows of a batch\n"
                "fix: give a smaller trainer.batch_size, or fewer and larger clusters"
            )
        return groups[shuffled(len(groups), seed, epoch)]


class NegativesAsRows(Sampler):
    """Puts hard negatives of a row into its batch as rows, each with views and a label of its own (PEARL).

    Negatives of a row are other rows of the data, which a file names by their first texts, or by their positives,
    such as one that `cse mine` wrote for these rows. Rows are taken in a random order; each is followed by up to
    `each` of its negatives, drawn again in every epoch, as far as the batch has room. A negative that came into an
    earlier batch of the epoch is not repeated, so an epoch has every row once, and rows left over at its end are
    not seen.

    Args:
        path: Rows of a text, its positive, which is not read, and its hard negatives; see `cse.data.Triplets`.
        columns: Their columns. None: recognized.
        each: Most negatives that follow a row (PEARL: 2, of 12 in its file).
    """

    def __init__(self, *, path: str, columns: Sequence[int | str] | None = None, each: int = 2) -> None:
        require_at_least(1, "sampler", each=each)
        self.path, self.each, self._mined = path, each, Triplets(path, columns=columns)
        self._found: tuple[Sequence[Example], list[list[int]]] | None = None

    def batches(self, data: Sequence[Example], size: int, seed: int, epoch: int) -> Batches:
        negatives, rng = self._negatives(data), python_rng(seed, "negatives", epoch)
        placed, rows = np.zeros(len(data), dtype=bool), list[int]()
        for row in shuffled(len(data), seed, epoch).tolist():
            if placed[row]:
                continue
            room = -(len(rows) + 1) % size
            free = [other for other in negatives[row] if not placed[other] and other != row]
            group = [row, *rng.sample(free, min(self.each, room, len(free)))]
            placed[group] = True
            rows += group
        return np.array(rows[: len(rows) - len(rows) % size], dtype=np.int64).reshape(-1, size)

    def _negatives(self, data: Sequence[Example]) -> list[list[int]]:
        """The numbers of the rows that are negatives of each row."""
        if self._found is None or self._found[0] is not data:
            firsts, positives = dict[str, int](), dict[str, int]()
            for row, texts in enumerate(chain.from_iterable(_texts_of(data))):
                firsts.setdefault(texts[0], row)
                for positive in texts[1:2]:
                    positives.setdefault(positive, row)
            rows = positives | firsts  # a first text before the positive of another row
            negatives: list[list[int]] = [[] for _ in data]
            for example in self._mined:
                known = [rows[text] for text in example.texts[1 + example.num_positives :] if text in rows]
                if example.texts[0] in rows:
                    negatives[rows[example.texts[0]]] += known
            if not any(negatives):
                raise UserError(
                    f"sampler.path is {self.path}, in which no negative of a row of the data is a row of the data\n"
                    "fix: mine them among these rows: cse mine CHECKPOINT --data FILE --k 2 --out negatives.parquet"
                )
            self._found = data, negatives
        return self._found[1]


def shuffled(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The random permutation (count,) of an epoch."""
    import torch

    order: NDArray[np.int64] = torch.randperm(count, generator=torch_rng(seed, "order", epoch)).numpy()
    return order


class Permuted(ByRow[NDArray[np.int64]]):
    """A random permutation of many rows, in batches, of which each is computed when it is asked for.

    A Feistel network over the next even power of two permutes its numbers; those that leave the rows are permuted again
    until they do not (cycle walking; Black and Rogaway, CT-RSA 2002). So an epoch takes no memory by row.
    """

    def __init__(self, count: int, size: int, seed: int, epoch: int) -> None:
        self._total, self.size, self._half = count, size, max(1, ((count - 1).bit_length() + 1) // 2)
        self._keys = [derive(seed, "order", epoch, i) for i in range(ROUNDS)]

    def __len__(self) -> int:
        return self._total // self.size

    def _row(self, index: int) -> NDArray[np.int64]:
        """Permute the numbers of a batch: (size,)."""
        rows = np.arange(index * self.size, (index + 1) * self.size, dtype=np.uint64)
        outside = np.ones(self.size, dtype=bool)
        while outside.any():
            rows[outside] = self._network(rows[outside])
            outside = rows >= self._total
        return rows.astype(np.int64)

    def _network(self, numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
        half, mask = np.uint64(self._half), np.uint64((1 << self._half) - 1)
        left, right = numbers >> half, numbers & mask
        for key in self._keys:
            mixed = (right + np.uint64(key)) * np.uint64(0x9E3779B97F4A7C15)  # as SplitMix64 does; it wraps around
            mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            left, right = right, left ^ ((mixed >> np.uint64(31)) & mask)
        found: NDArray[np.uint64] = (left << half) | right
        return found


def _groups(data: Sequence[Example], size: int, seed: int, epoch: int, name: str) -> tuple[Batches, Batches]:
    """Random groups of `size` rows with the same label: the label (n,) and the rows (n, size) of each group."""
    found = data.labels() if isinstance(data, Dataset) else [example.label for example in data]
    if found is None or (isinstance(found, list) and None in found):
        raise UserError(f"sampler {name} needs labels, but the data has none\nfix: --data.label_column=NAME")
    order = shuffled(len(data), seed, epoch)
    labels = np.asarray(found, dtype=np.int64)[order]
    values, first, label_of, counts = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    place = np.argsort(np.argsort(first))  # labels in the order in which they are drawn first
    rows = order[np.argsort(place[label_of], kind="stable")]
    ranked = np.argsort(first)
    ends = np.cumsum(counts[ranked])
    starts = ends - counts[ranked]
    parts = [
        rows[start : end - (end - start) % size].reshape(-1, size) for start, end in zip(starts, ends, strict=True)
    ]
    groups = np.concatenate(parts) if parts else np.zeros((0, size), dtype=np.int64)
    return np.repeat(values[ranked], counts[ranked] // size), groups


def _texts_of(data: Sequence[Example]) -> Iterator[Sequence[Sequence[str]]]:
    """The texts of all rows, some thousands of rows at a time."""
    if isinstance(data, Dataset):
        return data.blocks()
    return ([data[i].texts for i in range(s, min(s + BLOCK, len(data)))] for s in range(0, len(data), BLOCK))


def _repeated_texts(data: Sequence[Example], order: NDArray[np.int64]) -> Iterator[set[int]]:
    """For each row of an order, the numbers of those of its texts that occur more than once in the data."""

    def blocks() -> Iterator[list[list[str]]]:
        return ([[text for text in row if text] for row in rows] for rows in _texts_of(data))  # "" is a missing text

    def prints(rows: Sequence[Sequence[str]], seed: int) -> Prints:
        return fingerprints((text for row in rows for text in row), seed)

    def collect(seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        with TemporaryDirectory(prefix="cse-") as folder:
            numbering, again = Numbering(Path(folder)), [np.zeros(0, dtype=np.int64)]
            for rows in blocks():
                numbers, is_new = numbering.add(prints(rows, seed))
                again.append(numbers[~is_new])
            numbering.close()
            repeated, known = np.unique(np.concatenate(again)), Numbers(Path(folder))
            owners, texts, start = [again[0]], [again[0]], 0
            for rows in blocks():
                numbers = known.find(prints(rows, seed))
                kept = np.isin(numbers, repeated)
                owners.append(start + np.repeat(np.arange(len(rows)), list(map(len, rows)))[kept])
                texts.append(numbers[kept])
                start += len(rows)
            del known  # Windows cannot remove a file that is mapped
            return np.concatenate(owners), np.concatenate(texts)

    owners, texts = without_collision(collect)
    starts = np.searchsorted(owners, order)
    ends = np.searchsorted(owners, order, side="right")
    return (set(texts[start:end].tolist()) for start, end in zip(starts, ends, strict=True))


def pack(items: NDArray[np.int64], keys: Iterable[set[int]], size: int) -> Batches:
    """Pack items into batches (n, size) in which no two items have a common key.

    Each item goes into the first batch that has room and contains none of its keys. Batches that are not full are
    dropped.
    """
    batches = _Batches(size)
    within: dict[int, set[int]] = {}  # the batches that contain a key
    after: dict[int, int] = {}  # the first batch after all of these
    for item, own in zip(items, keys, strict=True):
        at, tries = batches.first(0), 0
        while any(at in within.get(key, ()) for key in own):
            tries += 1
            # After TRIES batches, the item goes behind the last batch with one of its keys, since a key of very many
            # items would take quadratic time otherwise.
            at = batches.first(at + 1 if tries < TRIES else max(after.get(key, 0) for key in own))
        batches.put(at, item)
        for key in own:
            within.setdefault(key, set()).add(at)
            after[key] = max(after.get(key, 0), at + 1)
    return batches.full()


class _Batches:
    """Batches that are filled, and those of them that have room: a union-find forest over the full ones."""

    def __init__(self, size: int) -> None:
        self.size, self._next = size, dict[int, int]()
        self._rows, self._filled = np.zeros((64, size), dtype=np.int64), list[int]()

    def first(self, at: int) -> int:
        """The index of the first batch from `at` on that has room; that of a new batch if there is none."""
        while at < len(self._filled) and self._filled[at] == self.size:
            following = self._next.get(at, at + 1)
            self._next[at] = self._next.get(following, following)
            at = following
        return at

    def put(self, at: int, item: int) -> None:
        """Put an item into a batch that has room, or into a new one."""
        if at == len(self._filled):
            self._filled.append(0)
            if at == len(self._rows):
                self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])
        self._rows[at, self._filled[at]] = item
        self._filled[at] += 1

    def full(self) -> Batches:
        """The batches (n, size) that are full."""
        full: Batches = self._rows[: len(self._filled)][np.array(self._filled, dtype=np.int64) == self.size]
        return full
