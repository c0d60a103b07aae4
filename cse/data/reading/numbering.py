"""Numbers texts in the order of their first occurrence, in files: no Python object is kept for a text.

A text is known by its 128-bit fingerprint. Half of it is looked up in a sorted array; the other half, kept by number,
confirms that the text is the same, so that two of a billion texts are taken for one with probability 1e-21.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from itertools import count
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_128_digest

T = TypeVar("T")
BLOCK = 1 << 18  # keys that are merged at once
IN_MEMORY = 1 << 16  # levels with fewer keys than this are kept in memory

Prints = NDArray[np.uint64]  # (n, 2)


class Collision(Exception):
    """Two different texts have the same first half of a fingerprint."""


def fingerprints(texts: Iterable[str], seed: int = 0) -> Prints:
    """The fingerprints (n, 2) of texts."""
    digests = b"".join(map(partial(xxh3_128_digest, seed=seed), map(str.encode, texts)))
    return np.frombuffer(digests, dtype=np.uint64).reshape(-1, 2)


def without_collision(work: Callable[[int], T]) -> T:
    """The result of `work(seed)` for the first seed of fingerprints that has no collision."""
    for seed in count():
        try:
            return work(seed)
        except Collision:
            continue
    raise AssertionError("unreachable")


class GrowingArray:
    """A .npy file of one dimension that is written from its start to its end."""

    def __init__(self, path: Path, dtype: type[np.generic]) -> None:
        self._file: IO[bytes] = path.open("wb")
        self._dtype, self._length = np.dtype(dtype), 0
        self._write_header()

    def append(self, values: NDArray[Any]) -> None:
        """Write values behind the earlier ones."""
        self._file.write(np.ascontiguousarray(values, dtype=self._dtype).data)
        self._length += len(values)

    def flush(self) -> None:
        """Write what is buffered, so that the file can be opened."""
        end = self._file.tell()
        self._file.seek(0)
        self._write_header()
        self._file.seek(end)
        self._file.flush()

    def close(self) -> None:
        """Finish the file."""
        self.flush()
        self._file.close()

    def _write_header(self) -> None:
        """The header has the same size for any length: numpy leaves room for the digits of the first dimension."""
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": (self._length,)}
        np.lib.format.write_array_header_1_0(self._file, header)


class _Level(NamedTuple):
    """Sorted keys, and the number of each; `number` names its files, -1 for none."""

    keys: NDArray[np.uint64]
    values: NDArray[np.int64]
    number: int = -1


class Numbering:
    """Gives numbers 0, 1, ... to fingerprints in the order of their first occurrence, and writes what `Numbers` reads.

    The sorted keys are held as levels, each at least twice as long as the next, which are merged as they grow.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        self._levels: list[_Level] = []
        self._named = count()
        self._checks = GrowingArray(folder / "checks.npy", np.uint64)

    def add(self, prints: Prints) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The numbers (n,) of fingerprints, and whether each is the first of its kind (n,); raises a Collision."""
        keys, first, inverse = np.unique(prints[:, 0], return_index=True, return_inverse=True)
        numbers = np.full(len(keys), -1, dtype=np.int64)
        for level in self._levels:
            _look_up(level.keys, level.values, keys, numbers)
        fresh = np.flatnonzero(numbers < 0)
        fresh = fresh[np.argsort(first[fresh])]
        numbers[fresh] = np.arange(self.count, self.count + len(fresh))
        is_new = np.zeros(len(prints), dtype=bool)
        is_new[first[fresh]] = True
        own = numbers[inverse]
        self._checks.append(prints[is_new, 1])
        if not is_new.all():
            self._checks.flush()
            checks = np.load(self.folder / "checks.npy", mmap_mode="r")
            if not np.array_equal(checks[own], prints[:, 1]):
                raise Collision
        self.count += len(fresh)
        if len(fresh):
            chosen = np.sort(fresh)
            self._levels.append(_Level(keys[chosen], numbers[chosen]))
            while len(self._levels) > 1 and len(self._levels[-2].keys) < 2 * len(self._levels[-1].keys):
                self._merge()
        return own, is_new

    def close(self) -> None:
        """Write keys.npy and values.npy, the keys in ascending order with their numbers, and checks.npy."""
        while len(self._levels) > 1:
            self._merge()
        keys, values, number = (
            self._levels.pop() if self._levels else _Level(np.zeros(0, np.uint64), np.zeros(0, np.int64))
        )
        if number < 0:
            np.save(self.folder / "keys.npy", keys)
            np.save(self.folder / "values.npy", values)
        else:
            del keys, values  # Windows cannot rename a file that is mapped
            for name in ("keys", "values"):
                self._file(name, number).rename(self.folder / f"{name}.npy")
        self._checks.close()

    def _file(self, name: str, number: int) -> Path:
        return self.folder / f"{name}-{number}.npy"

    def _merge(self) -> None:
        """Merge the two shortest levels, block by block; they have no key in common."""
        b, a = self._levels.pop(), self._levels.pop()
        size = len(a.keys) + len(b.keys)
        keys: NDArray[np.uint64] = np.empty(0, np.uint64)
        values: NDArray[np.int64] = np.empty(0, np.int64)
        number = -1
        if size < IN_MEMORY:
            keys, values = np.empty(size, np.uint64), np.empty(size, np.int64)
        else:
            number = next(self._named)
            new = partial(np.lib.format.open_memmap, mode="w+", shape=(size,))
            keys = new(self._file("keys", number), dtype=np.uint64)
            values = new(self._file("values", number), dtype=np.int64)
        for one, other in ((a, b), (b, a)):
            for start in range(0, len(one.keys), BLOCK):
                place = start + other.keys.searchsorted(one.keys[start : start + BLOCK])
                place += np.arange(len(place))
                keys[place] = one.keys[start : start + BLOCK]
                values[place] = one.values[start : start + BLOCK]
        self._levels.append(_Level(keys, values, number))
        old = [level.number for level in (a, b) if level.number >= 0]
        del a, b, one, other  # Windows cannot remove a file that is mapped
        for each in old:
            self._file("keys", each).unlink()
            self._file("values", each).unlink()


class Numbers:
    """The numbers of texts in a folder that a `Numbering` wrote, memory-mapped."""

    FILES = ("keys.npy", "values.npy", "checks.npy")

    def __init__(self, folder: Path) -> None:
        self._keys, self._values, self._checks = (np.load(folder / name, mmap_mode="r") for name in self.FILES)

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, prints: Prints) -> NDArray[np.int64]:
        """The numbers (n,) of fingerprints; -1 for those without one."""
        found = np.full(len(prints), -1, dtype=np.int64)
        _look_up(self._keys, self._values, prints[:, 0], found)
        known = found >= 0
        found[known] = np.where(self._checks[found[known]] == prints[known, 1], found[known], -1)
        return found


def _look_up(
    keys: NDArray[np.uint64], values: NDArray[np.int64], wanted: NDArray[np.uint64], found: NDArray[np.int64]
) -> None:
    """Write the value of each wanted key into `found`, where there is one."""
    if not len(keys):
        return
    place = np.minimum(keys.searchsorted(wanted), len(keys) - 1)
    hit = keys[place] == wanted
    found[hit] = values[place[hit]]
