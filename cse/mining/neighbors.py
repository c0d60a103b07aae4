"""Search for the nearest rows of a pool, exact or with faiss. Vectors have unit length; the pool may be on disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cse.encoder.vectors import release

EXACT = "exact"
BLOCK = 16_384  # rows of the pool that are compared at once, so that a search needs memory for M x BLOCK numbers
STRIP = 64  # candidates whose vectors are fetched at once, for the same reason

Found = tuple[NDArray[np.int64], NDArray[np.float32]]  # rows of the pool, filled up with -1, and cosines


class Neighbors(Protocol):
    """A pool that can be searched."""

    def search(self, anchors: NDArray[np.float32], depth: int, banned: NDArray[np.int64]) -> Found:
        """The `depth` nearest rows (M, depth) of anchors (M, D), nearest first, without the banned ones (M, E)."""
        ...


def cosines(anchor: NDArray[np.float32], pool: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """The cosines (M, C) of anchors (M, D) with their rows (M, C) of the pool (N, D), a few columns at a time."""
    parts = [np.einsum("md,mcd->mc", anchor, pool[rows[:, i : i + STRIP]]) for i in range(0, rows.shape[1], STRIP)]
    return np.concatenate([np.empty((len(rows), 0), dtype=np.float32), *parts], axis=1)


def contained(rows: NDArray[np.int64], banned: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Tell whether each entry of rows (M, C) is among the banned ones (M, E) of its row: (M, C)."""
    return np.array([np.isin(*pair) for pair in zip(rows, banned, strict=True)], dtype=bool).reshape(rows.shape)


class Exact:
    """Compares anchors with every row of the pool, block by block, on a CUDA device or on the CPU."""

    def __init__(self, pool: NDArray[np.float32], device: str = "cpu") -> None:
        import torch

        wanted = torch.device(device)
        self.pool, self.device = pool, wanted if wanted.type == "cuda" else torch.device("cpu")

    def search(self, anchors: NDArray[np.float32], depth: int, banned: NDArray[np.int64]) -> Found:
        """See `Neighbors`."""
        import torch

        queries = torch.from_numpy(np.ascontiguousarray(anchors)).to(self.device)  # (M, D)
        scores = torch.full((len(anchors), depth), -torch.inf, device=self.device)
        rows = torch.full((len(anchors), depth), -1, device=self.device)
        for start in range(0, len(self.pool), BLOCK):
            block = torch.from_numpy(np.array(self.pool[start : start + BLOCK])).to(self.device)
            release(self.pool)
            cosine = queries @ block.T  # (M, BLOCK)
            at, which = np.nonzero((banned >= start) & (banned < start + len(block)))
            cosine[at, banned[at, which] - start] = -torch.inf
            best, place = cosine.topk(min(depth, len(block)), dim=1)
            place = torch.where(best > -torch.inf, place + start, -1)
            scores, order = torch.cat([scores, best], 1).topk(depth, dim=1)
            rows = torch.cat([rows, place], 1).gather(1, order)
        return rows.cpu().numpy(), scores.cpu().numpy()


def best(rows: Sequence[NDArray[np.int64]], scores: Sequence[NDArray[np.float32]], count: int) -> Found:
    """The `count` rows (M, count) with the highest of the scores (M, C), which stand side by side; -1 is none."""
    every, score = np.concatenate(rows, 1), np.concatenate(scores, 1)
    score = np.where(every < 0, -np.inf, score)
    order = np.argsort(-score, axis=1, kind="stable")[:, :count]  # equal ones keep the order of the pool's parts
    return np.take_along_axis(every, order, 1), np.take_along_axis(score, order, 1)
