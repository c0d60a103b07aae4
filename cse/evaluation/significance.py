"""How sure one may be of a score: bootstrap over pairs, of one model and of the difference of two.

Pairs are drawn with replacement within a task, and tasks independently of each other. Sentences that occur in several
pairs, and pairs that occur in several tasks (STS-B was drawn from STS12-16), are treated as independent, as is usual.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cse.evaluation.sts import Vector

RESAMPLES = 2000
LEVEL = 0.95
SEED = 42
CELLS = 1 << 19  # (resamples x pairs) at a time: fits the processor's cache

Samples = NDArray[np.float64]


@dataclass(frozen=True)
class _Ranker:
    """Mid-ranks of one column in every resample, by counting how often each of its distinct values was drawn."""

    order: NDArray[np.intp]
    starts: NDArray[np.intp]
    group: NDArray[np.intp]

    @classmethod
    def of(cls, values: Vector) -> _Ranker:
        order = np.argsort(values, kind="stable")
        new = np.r_[True, np.diff(values[order]) != 0]
        group = np.empty(len(values), dtype=np.intp)
        group[order] = np.cumsum(new) - 1
        return cls(order, np.flatnonzero(new), group)

    def centered(self, counts: Samples) -> tuple[Samples, Vector]:
        """Ranks minus their mean (b, n), and their sums of squares (b,), when pair i was drawn counts[:, i] times."""
        drawn = np.add.reduceat(counts[:, self.order], self.starts, axis=1)  # (b, distinct values)
        middle = np.cumsum(drawn, axis=1) - (drawn + counts.sum(1, keepdims=True)) / 2
        return middle[:, self.group], (drawn * middle * middle).sum(1)


def bootstrap(cosines: Sequence[Vector], gold: Vector, name: str, resamples: int = RESAMPLES) -> Samples:
    """Spearman x 100 of several models on the same resamples of a task's pairs.

    Args:
        cosines: (n,) similarities of each of k models.
        gold: (n,) gold scores.
        name: Name of the task, which fixes its random draws: any two models are compared on the same ones.
        resamples: Number of resamples.

    Returns:
        (k, resamples); nan if a resample has one distinct value only.
    """
    n = len(gold)
    rng = np.random.default_rng([SEED, zlib.crc32(name.encode())])
    target, rankers = _Ranker.of(gold), [_Ranker.of(c) for c in cosines]
    parts = []
    for start in range(0, resamples, max(1, CELLS // n)):
        size = min(max(1, CELLS // n), resamples - start)
        counts = _counts(rng, size, n)
        y, yy = target.centered(counts)
        weighted = counts * y
        rows = []
        for ranker in rankers:
            x, xx = ranker.centered(counts)
            with np.errstate(invalid="ignore", divide="ignore"):
                rows.append(100 * np.einsum("bn,bn->b", weighted, x) / np.sqrt(xx * yy))
        parts.append(np.stack(rows))
    return np.concatenate(parts, axis=1)


def interval(samples: Vector, level: float = LEVEL) -> list[float]:
    """Both ends of the percentile interval."""
    tail = 100 * (1 - level) / 2
    low, high = np.nanpercentile(samples, [tail, 100 - tail])
    return [round(float(low), 4), round(float(high), 4)]


def p_value(differences: Vector) -> float:
    """Two-sided: how often resampled differences lie on the other side of 0, at least once in resamples + 1."""
    rarer = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return min(1.0, 2 * (rarer + 1) / (len(differences) + 1))


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Holm's adjusted p-values, which bound the chance of even one false finding."""
    adjusted, highest = {}, 0.0
    for rank, name in enumerate(sorted(p, key=lambda k: p[k])):
        highest = max(highest, min(1.0, (len(p) - rank) * p[name]))
        adjusted[name] = highest
    return adjusted


def _counts(rng: np.random.Generator, rows: int, n: int) -> Samples:
    """How often each of n pairs is drawn in each of `rows` resamples of size n: (rows, n)."""
    drawn = rng.integers(0, n, size=(rows, n)) + n * np.arange(rows)[:, None]
    return np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)
