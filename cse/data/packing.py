"""Items into batches so that no two of a batch have a key in common."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

TRIES = 64  # batches that are tried for an item


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
