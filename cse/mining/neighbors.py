"""Search for the nearest rows of a pool, exact or with faiss. Vectors have unit length; the pool may be on disk."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cse.encoder.vectors import release
from cse.errors import UserError, require_package

EXACT = "exact"
BLOCK = 16_384  # rows of the pool that are compared at once, so that a search needs memory for M x BLOCK numbers
STRIP = 64  # candidates whose vectors are fetched at once, for the same reason
TRAINING = 100_000  # largest number of vectors that an index is trained on

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
    """Whether each entry of rows (M, C) is among the banned ones (M, E) of its row: (M, C)."""
    return np.array([np.isin(*pair) for pair in zip(rows, banned, strict=True)], dtype=bool).reshape(rows.shape)


def open_pool(pool: NDArray[np.float32], index: str) -> Neighbors:
    """Open a pool for searches with an index.

    Args:
        pool: Unit vectors (N, D); a memory-mapped array is read block by block.
        index: `exact`, or a factory string of faiss, with search parameters after a semicolon, such as `Flat`, `HNSW32`
            or `IVF1024,Flat;nprobe=16`.

    Raises:
        UserError: faiss is not installed, or cannot build the index.
    """
    return Exact(pool) if index == EXACT else Faiss(pool, index)


class Exact:
    """Compares anchors with every row of the pool, block by block, on a GPU if there is one."""

    def __init__(self, pool: NDArray[np.float32]) -> None:
        import torch

        self.pool, self.device = pool, torch.device("cuda" if torch.cuda.is_available() else "cpu")

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


class Faiss:
    """A faiss index over inner products, in memory. Banned rows are found too and then left out."""

    def __init__(self, pool: NDArray[np.float32], index: str) -> None:
        faiss = require_package("faiss", extra="faiss", user=f"--index {index}")
        factory, _, parameters = index.partition(";")
        try:
            self.index = faiss.index_factory(pool.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
            if not self.index.is_trained:
                self.index.train(np.ascontiguousarray(pool[:: max(1, len(pool) // TRAINING)]))
            for start in range(0, len(pool), BLOCK):
                self.index.add(np.ascontiguousarray(pool[start : start + BLOCK]))
            if parameters:
                faiss.ParameterSpace().set_index_parameters(self.index, parameters)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1][:200]
            raise UserError(
                f"index {index!r} cannot be built for {len(pool):,} vectors of {pool.shape[1]} dimensions: {reason}\n"
                "fix: give exact, Flat, HNSW32, or IVF1024,Flat;nprobe=16 with fewer cells than vectors"
            ) from error

    def search(self, anchors: NDArray[np.float32], depth: int, banned: NDArray[np.int64]) -> Found:
        """See `Neighbors`."""
        wanted = min(depth + banned.shape[1], self.index.ntotal)
        scores, rows = self.index.search(np.ascontiguousarray(anchors), wanted)  # (M, wanted)
        out = contained(rows, banned) | (rows < 0)
        order = np.argsort(out, axis=1, kind="stable")[:, :depth]  # first the rows that are not banned, nearest first
        gone = np.take_along_axis(out, order, 1)
        rows = np.where(gone, -1, np.take_along_axis(rows, order, 1))
        scores = np.where(gone, -np.inf, np.take_along_axis(scores, order, 1)).astype(np.float32)
        missing = ((0, 0), (0, depth - rows.shape[1]))
        return np.pad(rows, missing, constant_values=-1), np.pad(scores, missing, constant_values=-np.inf)
