"""How sure one may be of a score: bootstrap over its units, of one model and of the difference of two.

Units (pairs, queries, triplets, texts) are drawn with replacement within a task, and tasks independently of each other.
Sentences that occur in several pairs, and pairs that occur in several tasks (STS-B was drawn from STS12-16), are
treated as independent, as is usual.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from cse.evaluation.finding import Finding
from cse.evaluation.statistic import STATISTICS, Models, Samples, Vector

RESAMPLES = 2000
LEVEL = 0.95
SEED = 42
CELLS = 1 << 19  # (resamples x units) at a time: fits the processor's cache


def bootstrap(statistic: str, models: Models, name: str, resamples: int = RESAMPLES) -> Samples:
    """A statistic of several models on the same resamples of a task's units, times 100.

    Args:
        statistic: Its name in `cse.evaluation.statistic.STATISTICS`.
        models: The arrays (n,) of each of k models.
        name: Name of the task, which fixes its random draws: any two models are compared on the same ones.
        resamples: Number of resamples.

    Returns:
        (k, resamples); nan where the statistic is undefined, as a correlation is if all values are equal.
    """
    n = len(models[0][0])
    rng = np.random.default_rng([SEED, zlib.crc32(name.encode())])
    draw = STATISTICS[statistic](models)
    size = max(1, CELLS // n)
    sizes = [min(size, resamples - start) for start in range(0, resamples, size)]
    return np.concatenate([draw(_counts(rng, rows, n)) for rows in sizes], axis=1)


def resampled(findings: Sequence[Finding], measure: str, resamples: int = RESAMPLES) -> Samples:
    """A measure of several models on one set of rows, on the same resamples: (k, resamples)."""
    of = findings[0].measures[measure].of
    arrays = [[finding.arrays[name] for name in of] for finding in findings]
    return bootstrap(findings[0].measures[measure].statistic, arrays, findings[0].name, resamples)


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
    """How often each of n units is drawn in each of `rows` resamples of size n: (rows, n)."""
    drawn = rng.integers(0, n, size=(rows, n)) + n * np.arange(rows)[:, None]
    return np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)
