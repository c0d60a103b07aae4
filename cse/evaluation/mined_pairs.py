"""The most similar pairs among all texts of a list, in blocks: memory for a few blocks and for the pairs kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cse.encoder.vectors import unit
from cse.mining.approximate import open_pool
from cse.mining.neighbors import EXACT

CHUNK = 1024  # texts whose neighbors are searched at once


@dataclass(frozen=True)
class MinedPairs:
    """Pairs of texts, the most similar one first.

    Attributes:
        key: (m,) i * n + j for the pair of texts i < j of n.
        similarity: (m,) their similarities.
    """

    key: NDArray[np.int64]
    similarity: NDArray[np.float32]


def keys(first: NDArray[np.int64], second: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """One number for each unordered pair of n texts."""
    return np.minimum(first, second) * n + np.maximum(first, second)


def operands(vectors: NDArray[np.floating], *, distance: bool) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Two arrays (n, D') whose dot products are the cosines of vectors (n, D), or -d^2/2 of their distances d."""
    if not distance:
        scaled = unit(vectors.astype(np.float32))
        return scaled, scaled
    # Far from 0, rounding would hide the distances.
    centered = (vectors - vectors.mean(0, dtype=np.float64)).astype(np.float32)
    half, ones = -np.square(centered).sum(1, keepdims=True) / 2, np.ones((len(vectors), 1), dtype=np.float32)
    return np.hstack([centered, ones, half]), np.hstack([centered, half, ones])


def mine_pairs(
    queries: NDArray[np.float32], vectors: NDArray[np.float32], neighbors: int, keep: int, device: str = "cpu"
) -> MinedPairs:
    """The pairs of each text with its nearest other texts, of which the most similar ones are kept.

    Args:
        queries: (n, D) vectors whose dot product with `vectors` is the similarity of two texts; see `operands`.
        vectors: (n, D) vectors of the same texts.
        neighbors: Number of other texts that are searched for each text.
        keep: Number of pairs that are kept.
        device: The device to search on.
    """
    n = len(vectors)
    pool, depth = open_pool(vectors, EXACT, device=device), min(neighbors, n - 1)
    found = MinedPairs(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32))
    for start in range(0, n, CHUNK):
        own = np.arange(start, min(start + CHUNK, n))
        rows, similarity = pool.search(queries[own], depth, own[:, None])  # (CHUNK, depth)
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
        f1_share: (p,) the part of each known pair in the highest F1 of any threshold; its mean is that F1.
        threshold: The threshold, in the middle between two neighboring similarities.
    """

    precision: NDArray[np.float64]
    f1_share: NDArray[np.float64]
    threshold: float


def judge(found: MinedPairs, known: NDArray[np.int64]) -> Mined:
    """Compare mined pairs with known ones, given as ascending keys without repeats.

    Source: `ParaphraseMiningEvaluator` of sentence-transformers.
    """
    place = np.minimum(np.searchsorted(known, found.key), len(known) - 1)
    right = known[place] == found.key
    ends = np.flatnonzero(np.r_[np.diff(found.similarity) != 0, True])  # the last pair of each similarity
    hits, extracted = np.cumsum(right)[ends], ends + 1
    at = np.searchsorted(ends, np.flatnonzero(right))  # the threshold at which each known pair was found
    precision, f1_share = np.zeros(len(known)), np.zeros(len(known))
    precision[place[right]] = (hits / extracted)[at]
    best = int(np.argmax(hits / (extracted + len(known))))
    f1_share[place[right][at <= best]] = 2 * len(known) / (extracted[best] + len(known))
    after = found.similarity[min(ends[best] + 1, len(found.key) - 1)]
    return Mined(precision, f1_share, (float(found.similarity[ends[best]]) + float(after)) / 2)
