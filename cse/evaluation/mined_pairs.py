"""The most similar pairs among all texts of a list, in blocks: memory for a few blocks and for the pairs kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cse.mining.neighbors import EXACT, open_pool

CHUNK = 1024  # texts whose neighbors are searched at once


@dataclass(frozen=True)
class MinedPairs:
    """Pairs of texts, the most similar one first.

    Attributes:
        key: (m,) i * n + j for the pair of texts i < j of n.
        similarity: (m,) their cosines.
    """

    key: NDArray[np.int64]
    similarity: NDArray[np.float32]


def keys(first: NDArray[np.int64], second: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """One number for each unordered pair of n texts."""
    return np.minimum(first, second) * n + np.maximum(first, second)


def mine_pairs(vectors: NDArray[np.float32], neighbors: int, keep: int) -> MinedPairs:
    """The pairs of each text with its nearest other texts, of which the most similar ones are kept.

    Args:
        vectors: (n, D) unit vectors.
        neighbors: Number of other texts that are searched for each text.
        keep: Number of pairs that are kept.
    """
    n = len(vectors)
    pool, depth = open_pool(vectors, EXACT), min(neighbors, n - 1)
    found = MinedPairs(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32))
    for start in range(0, n, CHUNK):
        own = np.arange(start, min(start + CHUNK, n))
        rows, similarity = pool.search(vectors[own], depth, own[:, None])  # (CHUNK, depth)
        key = keys(np.repeat(own, depth), rows.ravel(), n)
        found = _kept(np.r_[found.key, key], np.r_[found.similarity, similarity.ravel()], keep)
    return found


def _kept(key: NDArray[np.int64], similarity: NDArray[np.float32], keep: int) -> MinedPairs:
    """Each pair once, with the similarity that was found first."""
    key, first = np.unique(key, return_index=True)
    similarity = similarity[first]
    order = np.argsort(-similarity, kind="stable")[:keep]
    return MinedPairs(key[order], similarity[order])


@dataclass(frozen=True)
class Mined:
    """How well the known pairs were found.

    Attributes:
        precision: (p,) the share of known pairs among those that are at least as similar as each known pair; 0 for a
            known pair that was not mined. Its mean is the average precision.
        f1: The highest F1 of any threshold.
        threshold: The similarity of that F1, in the middle between two neighboring ones.
    """

    precision: NDArray[np.float64]
    f1: float
    threshold: float


def judge(found: MinedPairs, known: NDArray[np.int64]) -> Mined:
    """Compare mined pairs with known ones, given as keys without repeats.

    Source: `ParaphraseMiningEvaluator` of sentence-transformers.
    """
    right = np.isin(found.key, known)
    ends = np.flatnonzero(np.r_[np.diff(found.similarity) != 0, True])  # the last pair of each similarity
    hits = np.cumsum(right)[ends]
    extracted = ends + 1
    f1 = 2 * hits / (extracted + len(known))
    best = int(np.argmax(f1))
    following = found.similarity[np.minimum(ends + 1, len(found.key) - 1)]
    precision = np.zeros(len(known))
    at = np.searchsorted(ends, np.flatnonzero(right))  # the threshold at which each known pair was found
    place = {int(key): i for i, key in enumerate(known)}
    for key, value in zip(found.key[right], hits[at] / extracted[at], strict=True):
        precision[place[int(key)]] = value
    threshold = (float(found.similarity[ends[best]]) + float(following[best])) / 2
    return Mined(precision, float(f1[best]), threshold if hits[best] else 0.0)
