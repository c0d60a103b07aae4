"""The statistics that a score can be, each as a function of how often every unit was drawn.

A unit is what a bootstrap draws: a pair, a query, a text. A statistic takes the arrays of k models on the same n units,
and gives a function from counts (b, n) to k scores for each of b draws, times 100. Counts of 1 give the score itself.
The first array of a model is its own; the others, such as gold scores and labels, are the same for all models.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps

import numpy as np
from numpy.typing import NDArray

from cse.errors import UserError

Vector = NDArray[np.float64]
Samples = NDArray[np.float64]
Models = Sequence[Sequence[Vector]]  # k models, each with the arrays (n,) of the statistic
Draw = Callable[[Samples], Samples]  # counts (b, n) -> scores (k, b)
RESAMPLES = 2000
LEVEL = 0.95
SEED = 42
CELLS = 1 << 19  # (resamples x units) at a time: fits the processor's cache


def mean(models: Models) -> Draw:
    """The mean of one number for each unit: nDCG of queries, whether a triplet is in the right order."""
    values = np.stack([arrays[0] for arrays in models])  # (k, n)
    return lambda counts: 100 * (values @ counts.T) / counts.sum(1)


def spearman(models: Models) -> Draw:
    """Rank correlation of similarities with gold scores; nan where one of the two has one distinct value only."""
    target, rankers = _Ranker.of(models[0][1]), [_Ranker.of(arrays[0]) for arrays in models]

    def draw(counts: Samples) -> Samples:
        y, yy = target.centered(counts)
        weighted = counts * y
        rows = []
        for ranker in rankers:
            x, xx = ranker.centered(counts)
            with np.errstate(invalid="ignore", divide="ignore"):
                rows.append(100 * np.einsum("bn,bn->b", weighted, x) / np.sqrt(xx * yy))
        return np.stack(rows)

    return draw


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
        drawn = self.sums(counts)  # (b, distinct values)
        middle = np.cumsum(drawn, axis=1) - (drawn + counts.sum(1, keepdims=True)) / 2
        return middle[:, self.group], (drawn * middle * middle).sum(1)

    def sums(self, counts: Samples) -> Samples:
        """The sum of counts (b, n) over each distinct value, in ascending order: (b, distinct values)."""
        return np.add.reduceat(counts[:, self.order], self.starts, axis=1)


def _of_each(one: Callable[..., Callable[[Samples], Vector]]) -> Callable[[Models], Draw]:
    """A statistic that shares nothing between models, from that of one model."""

    @wraps(one)
    def of_all(models: Models) -> Draw:
        found = [one(*arrays) for arrays in models]
        return lambda counts: np.stack([100 * draw(counts) for draw in found])

    return of_all


@_of_each
def pearson(x: Vector, y: Vector) -> Callable[[Samples], Vector]:
    """Linear correlation of similarities with gold scores; nan where one of the two is constant."""

    def draw(counts: Samples) -> Vector:
        total = counts.sum(1)
        mx, my = counts @ x / total, counts @ y / total
        xy, xx, yy = counts @ (x * y) / total, counts @ (x * x) / total, counts @ (y * y) / total
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray((xy - mx * my) / np.sqrt((xx - mx * mx) * (yy - my * my)))

    x, y = x - x.mean(), y - y.mean()
    return draw


@_of_each
def average_precision(score: Vector, label: Vector) -> Callable[[Samples], Vector]:
    """The area under precision and recall of similarities, with labels 0 and 1; equal similarities are one threshold.

    Source: `sklearn.metrics.average_precision_score`.
    """
    thresholds = _Ranker.of(-score)

    def draw(counts: Samples) -> Vector:
        hits, drawn = thresholds.sums(counts * label), thresholds.sums(counts)  # (b, thresholds)
        with np.errstate(invalid="ignore", divide="ignore"):
            precision = np.nan_to_num(np.cumsum(hits, axis=1) / np.cumsum(drawn, axis=1))
            return np.asarray((hits * precision).sum(1) / hits.sum(1))

    return draw


@_of_each
def f1(predicted: Vector, label: Vector) -> Callable[[Samples], Vector]:
    """F1 of predictions 0 and 1, made at a threshold that is fixed, with labels 0 and 1."""

    def draw(counts: Samples) -> Vector:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(2 * (counts @ (predicted * label)) / (counts @ predicted + counts @ label))

    return draw


@_of_each
def v_measure(clusters: Vector, label: Vector, times: Vector) -> Callable[[Samples], Vector]:
    """The harmonic mean of homogeneity and completeness of clusters with labels; the mean over several clusterings.

    The arrays are the clusters (n, R) of R clusterings, the labels (n,), and how often each unit counts in each
    clustering (n, R), 0 if it was not clustered.

    Source: Rosenberg and Hirschberg, 2007, equation 3 with beta = 1.
    """
    clusterings = []
    for cluster in clusters.T:
        columns = cluster, label, cluster * (label.max(initial=0) + 1) + label
        clusterings.append([_Ranker.of(column) for column in columns])

    def draw(counts: Samples) -> Vector:
        found = [_v(*(ranker.sums(counts * n) for ranker in r)) for r, n in zip(clusterings, times.T, strict=True)]
        return np.asarray(np.mean(found, axis=0))

    return draw


def _v(clusters: Samples, labels: Samples, both: Samples) -> Vector:
    """V-measure (b,) of the sizes of clusters, labels and their intersections."""
    of_clusters, of_labels, of_both = map(_entropy, (clusters, labels, both))
    shared = np.maximum(of_clusters + of_labels - of_both, 0.0)  # mutual information
    with np.errstate(invalid="ignore", divide="ignore"):
        homogeneity = np.where(of_labels > 0, shared / of_labels, 1.0)
        completeness = np.where(of_clusters > 0, shared / of_clusters, 1.0)
        return np.asarray(np.nan_to_num(2 * homogeneity * completeness / (homogeneity + completeness)))


def _entropy(drawn: Samples) -> Vector:
    share = drawn / drawn.sum(1, keepdims=True)
    return np.asarray(-(share * np.log(np.where(share > 0, share, 1.0))).sum(1))


STATISTICS: Mapping[str, Callable[[Models], Draw]] = {
    made.__name__: made for made in (mean, spearman, pearson, average_precision, f1, v_measure)
}


def bootstrap(statistic: str, models: Models, name: str, resamples: int = RESAMPLES) -> Samples:
    """A statistic of several models on the same resamples of a task's units, times 100.

    The name of the task fixes its random draws: any two models are compared on the same ones.

    Returns:
        (k, resamples); nan where the statistic is undefined, as a correlation is if all values are equal.
    """
    n = len(models[0][0])
    rng = np.random.default_rng([SEED, zlib.crc32(name.encode())])
    draw = STATISTICS[statistic](models)
    size = max(1, CELLS // n)
    sizes = [min(size, resamples - start) for start in range(0, resamples, size)]
    return np.concatenate([draw(_counts(rng, rows, n)) for rows in sizes], axis=1)


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
    """Draw how often each of n units is in each of `rows` resamples of size n: (rows, n)."""
    drawn = rng.integers(0, n, size=(rows, n)) + n * np.arange(rows)[:, None]
    return np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)


@dataclass(frozen=True)
class Correlation:
    """Spearman and Pearson correlation, times 100."""

    spearman: float
    pearson: float


def correlation(cosines: Vector, gold: Vector, name: str = "task") -> Correlation:
    """Both correlations, times 100."""
    if len(gold) < 2 or np.ptp(gold) == 0:
        raise UserError(
            f"{name}: all {len(gold)} gold scores are equal, so no correlation is defined\nfix: check the data"
        )
    if np.ptp(cosines) == 0:
        raise UserError(
            f"{name}: the model gives all {len(gold)} pairs the same similarity, {cosines[0]:g}, so no correlation is "
            f"defined\nfix: train or load it again: it has collapsed, or its weights did not load"
        )
    from scipy.stats import rankdata

    spearman = coefficient(rankdata(cosines), rankdata(gold))
    return Correlation(100 * spearman, 100 * coefficient(cosines, gold))


def coefficient(x: Vector, y: Vector) -> float:
    """Correlation coefficient, in [-1, 1]."""
    x, y = x - x.mean(), y - y.mean()
    x, y = x / np.linalg.norm(x), y / np.linalg.norm(y)
    return float(np.clip(x @ y, -1.0, 1.0))
