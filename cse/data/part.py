"""Some rows of a data set, and the division of data sets into two parts that have no text in common."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from cse.batch import Example
from cse.data.datasets import Dataset
from cse.data.reading.numbering import fingerprints
from cse.data.reading.texts import distinct_key
from cse.files import atomic_file, cache_dir, writing_cache
from cse.seeding import derive

BLOCK = 8_192  # rows that are read at once
FORMAT = 1  # of a division in the cache; to be raised when the same rows would be divided in another way
Keys = NDArray[np.uint64]  # hashes of texts, equal for texts that count as the same


class Part(Dataset):
    """The rows of a data set with these numbers (n,), ascending, perhaps without some of their hard negatives.

    Args:
        left_out: What is added to the counts of `report`.
        keeps: Whether a text may be a hard negative of these rows; those that may not are left out.
        fewer: Whether that leaves rows with different numbers of texts.
    """

    def __init__(
        self,
        whole: Dataset,
        rows: NDArray[np.int64],
        left_out: dict[str, int],
        keeps: Callable[[str], bool],
        *,
        fewer: bool,
    ) -> None:
        self.whole, self.rows, self.keeps = whole, rows, keeps
        self.path, self.name, self.understood, self.unit = whole.path, whole.name, whole.understood, whole.unit
        self.num_positives, self.label_names = whole.num_positives, whole.label_names
        self.keep_places, self.in_memory, self.value_names = whole.keep_places, whole.in_memory, whole.value_names
        self.ragged = whole.ragged or fewer
        self.report, self.remarks = {**whole.report, **left_out}, whole.remarks
        self.hash = hashlib.sha256(f"{whole.hash} {sorted(left_out.items())}".encode() + rows.tobytes()).hexdigest()

    def __len__(self) -> int:
        return len(self.rows)

    def _row(self, index: int) -> Example:
        """The row at a place, with the `row_id` that it has in the data set."""
        example = self.whole[int(self.rows[index])]
        first = 1 + example.num_positives
        if len(example.texts) == first:
            return example
        kept = [text if self.keeps(text) else "" for text in example.texts[first:]]
        return replace(example, texts=(*example.texts[:first], *(kept if self.keep_places else filter(None, kept))))

    def save_source(self, target: Path) -> None:
        """Write the rows of the whole data set: a resumed run takes the same part of them."""
        self.whole.save_source(target)

    def labels(self) -> NDArray[np.int64] | None:
        """The label (n,) of every row; None if rows have no labels."""
        found = self.whole.labels()
        return None if found is None else found[self.rows]

    def scores(self) -> NDArray[np.float64] | None:
        """The score (n,) of every row as it was read; None if rows have no scores."""
        found = self.whole.scores()
        return None if found is None else found[self.rows]

    def blocks(self) -> Iterator[list[list[str]]]:
        """The texts of all rows, some thousands of rows at a time."""
        for start in range(0, len(self), BLOCK):
            yield [list(example.texts) for example in self[start : start + BLOCK]]

    def with_negatives(self, others: Keys) -> Part:
        """The same rows with those hard negatives of the whole data set whose `text_keys` are not among others."""
        return Part(self.whole, self.rows, {}, _without(others, 0), fewer=True)

    def describe(self) -> str:
        """The whole data set, and how many of its rows these are."""
        return f"{self.whole.describe()}, of which {len(self):,}"


@dataclass(frozen=True)
class Divided:
    """Two parts of a data set.

    Attributes:
        kept: The rows to train on. A hard negative that is a text of `held` is not among their texts.
        held: The rows that are held out, without their hard negatives; None if there are none.
        linked: Number of rows that cannot be held out, since they share texts with too many others.
        negatives: Number of hard negatives that were removed from `kept`.
    """

    kept: Part
    held: Part | None
    linked: int
    negatives: int


def divide(sets: Sequence[Dataset], rooms: Sequence[int], seed: int) -> list[Divided]:
    """Hold out at most `rooms` rows of data sets, such that no text is on both sides, also not in different data sets.

    Rows that share an anchor or a positive are on the same side, and so are rows that share one with these, and so on.
    Groups of such rows are held out in an order that depends on the seed and on their texts alone, as long as there is
    room. Hard negatives connect no rows.
    """
    seed = derive("held out", seed)
    places = np.cumsum([0, *map(len, sets)])  # of the first row of each data set, and the end
    known = _Division.kept(sets, rooms, seed)
    keeps = _without(known.held, seed)
    found = []
    for data, begin, end, removed, linked in zip(sets, places, places[1:], known.removed, known.linked, strict=False):
        rows, others = np.flatnonzero(~known.out[begin:end]), np.flatnonzero(known.out[begin:end])
        left_out = {"held_out": len(others), "negatives_held_out": int(removed)}
        kept = Part(data, rows, left_out, keeps, fewer=removed > 0)
        part = Part(data, others, {"not_held_out": len(rows)}, lambda text: False, fewer=False) if len(others) else None
        found.append(Divided(kept, part, int(linked), int(removed)))
    return found


class _Division(NamedTuple):
    """Hold what `divide` finds by reading all texts.

    `out` (M,) says whether each row of all data sets is held out; `held` are the distinct keys of its texts, ascending.
    By data set, `removed` counts hard negatives with such a key in the other rows, and `linked` the rows in groups that
    are larger than the room.
    """

    out: NDArray[np.bool_]
    held: Keys
    removed: NDArray[np.int64]
    linked: NDArray[np.int64]

    @classmethod
    def kept(cls, sets: Sequence[Dataset], rooms: Sequence[int], seed: int) -> _Division:
        """The division from the cache, or a new one, which is put there: a second start reads no text for it."""
        named = f"{FORMAT} {seed} {list(rooms)} {[(data.hash, data.num_positives) for data in sets]}"
        file = cache_dir() / "divided" / f"{hashlib.sha256(named.encode()).hexdigest()[:32]}.npz"
        with suppress(OSError, ValueError, KeyError, EOFError, BadZipFile), np.load(file) as arrays:
            return cls(*(arrays[name] for name in cls._fields))
        found = _division(sets, rooms, seed)
        with writing_cache("divided"), atomic_file(file) as scratch, scratch.open("wb") as opened:
            np.savez(opened, **found._asdict())
        return found


def _division(sets: Sequence[Dataset], rooms: Sequence[int], seed: int) -> _Division:
    """Read all texts, and choose the groups of rows to hold out."""
    places = np.cumsum([0, *map(len, sets)])
    texts = _keyed(sets, seed)
    linking = texts[~texts["negative"]]
    group, first, groups = _groups(linking["key"], linking["row"], places[-1])
    size = np.bincount(group, minlength=groups)
    source = np.searchsorted(places, np.arange(places[-1]), side="right") - 1  # of each row
    lowest, highest = np.full(groups, len(sets)), np.full(groups, -1)
    np.minimum.at(lowest, group, source)
    np.maximum.at(highest, group, source)
    order = np.argsort(first, kind="stable")
    taken = np.zeros(groups, dtype=bool)
    for number, room in enumerate(rooms):
        left = room
        for each in order[(lowest[order] == number) & (highest[order] == number) & (size[order] <= room)]:
            if size[each] <= left:
                taken[each], left = True, left - size[each]
            if not left:
                break
    out = taken[group]
    held = np.unique(linking["key"][out[linking["row"]]])
    lost = texts["row"][texts["negative"] & ~out[texts["row"]] & np.isin(texts["key"], held)]
    removed, linked = [], []
    for room, begin, end in zip(rooms, places, places[1:], strict=False):
        removed.append(((lost >= begin) & (lost < end)).sum())
        linked.append((size[group[begin:end]] > room).sum() if room else 0)
    return _Division(out, held, np.array(removed), np.array(linked))


def text_keys(sets: Iterable[Dataset]) -> Keys:
    """The distinct keys of all texts of data sets, hard negatives included, ascending."""
    texts = (text for data in sets for block in data.blocks() for row in block for text in row)
    return np.unique(_same_text_keys(texts, 0))


def _without(keys: Keys, seed: int) -> Callable[[str], bool]:
    """A function that says whether a text has none of these ascending keys."""

    def keeps(text: str) -> bool:
        key = _same_text_keys([text], seed)[0]
        place = int(np.searchsorted(keys, key))
        return place == len(keys) or bool(keys[place] != key)

    return keeps


def _same_text_keys(texts: Iterable[str], seed: int) -> Keys:
    keys: Keys = fingerprints(map(distinct_key, texts), seed)[:, 0]
    return keys


def _keyed(sets: Sequence[Dataset], seed: int) -> NDArray[np.void]:
    """The key of every text, its row, numbered over all data sets, and whether it is a hard negative."""
    parts, first = [], 0
    for data in sets:
        for block in data.blocks():
            width = np.array([len(texts) for texts in block])
            part = np.empty(width.sum(), dtype=[("key", np.uint64), ("row", np.int64), ("negative", bool)])
            part["key"] = _same_text_keys(chain.from_iterable(block), seed)
            part["row"] = np.repeat(np.arange(first, first + len(block)), width)
            place = np.arange(len(part)) - np.repeat(np.cumsum(width) - width, width)
            part["negative"] = place > data.num_positives
            parts.append(part)
            first += len(block)
    return np.concatenate(parts)


def _groups(keys: Keys, rows: NDArray[np.int64], n: int) -> tuple[NDArray[np.int64], Keys, int]:
    """The group of each of n rows, the smallest key of each group, and the number of groups."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    distinct, number = np.unique(keys, return_inverse=True)
    edges = coo_array((np.ones(len(rows), dtype=bool), (rows, n + number)), shape=(n + len(distinct),) * 2)
    groups, group = connected_components(edges, directed=False)
    first = np.full(groups, np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(first, group[rows], keys)
    return group[:n].astype(np.int64), first, groups
