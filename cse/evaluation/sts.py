"""STS scores as the field reports them: rank correlation of cosines and gold scores, under three aggregations.

A model that was trained by distance is scored by distance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cse.errors import UserError
from cse.evaluation.dot import row_dot
from cse.evaluation.pairs import Pairs

Embed = Callable[[list[str]], NDArray[np.floating]]
Vector = NDArray[np.float64]
Compare = Callable[[NDArray[np.floating], list[int], list[int]], Vector]  # vectors (n, D), pairs of rows -> (m,)


@dataclass(frozen=True)
class Correlation:
    """Spearman and Pearson correlation, times 100."""

    spearman: float
    pearson: float


@dataclass(frozen=True)
class TaskScore:
    """A task's scores.

    Attributes:
        all: Correlation over the pairs of all subsets together: the headline.
        mean: Plain mean over subsets.
        wmean: Mean over subsets weighted by their sizes.
        subsets: Correlation of each subset.
        sizes: Number of pairs in each subset.
        cosine: (n,) similarity of every pair, subset after subset: the cosine, or the negative Euclidean distance.
        gold: (n,) gold score of every pair.
    """

    all: Correlation
    mean: Correlation
    wmean: Correlation
    subsets: Mapping[str, Correlation]
    sizes: Mapping[str, int]
    cosine: Vector
    gold: Vector


def score(subsets: Mapping[str, Pairs], embed: Embed, name: str = "task") -> TaskScore:
    """Score one task; `score_all` for many at once."""
    return score_all({name: subsets}, embed)[name]


def score_all(
    tasks: Mapping[str, Mapping[str, Pairs]], embed: Embed, compare: Compare | None = None
) -> dict[str, TaskScore]:
    """Score tasks that share one pass of the encoder over the union of their sentences.

    Args:
        tasks: Pairs by task and subset.
        embed: Called once, with each sentence once; returns (n, D).
        compare: The function that compares pairs of vectors; None: `cosine`.

    Raises:
        UserError: The model returns nan or the wrong number of vectors, or a correlation is undefined.
    """
    texts = unique_texts(tasks)
    row = {text: i for i, text in enumerate(texts)}
    vectors = checked(embed(texts), texts)  # (n, D)
    scores, compare = {}, compare or cosine
    for name, subsets in tasks.items():
        cosines = {
            subset: compare(vectors, [row[t] for t in p.first], [row[t] for t in p.second])
            for subset, p in subsets.items()
        }
        scores[name] = task_score(cosines, {subset: p.gold for subset, p in subsets.items()}, name)
    return scores


def unique_texts(tasks: Mapping[str, Mapping[str, Pairs]]) -> list[str]:
    """Each sentence of all tasks once, in order of first appearance."""
    found: dict[str, None] = {}
    for subsets in tasks.values():
        for pairs in subsets.values():
            found |= dict.fromkeys(pairs.first) | dict.fromkeys(pairs.second)
    return list(found)


def task_score(cosines: Mapping[str, Vector], golds: Mapping[str, Vector], name: str = "task") -> TaskScore:
    """Aggregate cosines and gold scores by subset."""
    sizes = {subset: len(gold) for subset, gold in golds.items()}
    subsets = {subset: correlation(cosines[subset], golds[subset], f"{name}, subset {subset}") for subset in golds}
    pooled, gold = np.concatenate(list(cosines.values())), np.concatenate(list(golds.values()))
    return TaskScore(
        all=correlation(pooled, gold, name),
        mean=_mean(subsets, dict.fromkeys(subsets, 1)),
        wmean=_mean(subsets, sizes),
        subsets=subsets,
        sizes=sizes,
        cosine=pooled,
        gold=gold,
    )


def correlation(cosines: Vector, gold: Vector, name: str = "task") -> Correlation:
    """Both correlations, times 100.

    Raises:
        UserError: One side is constant, so no correlation is defined.
    """
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

    spearman = pearson(rankdata(cosines), rankdata(gold))
    return Correlation(100 * spearman, 100 * pearson(cosines, gold))


def pearson(x: Vector, y: Vector) -> float:
    """Correlation coefficient, in [-1, 1]."""
    x, y = x - x.mean(), y - y.mean()
    x, y = x / np.linalg.norm(x), y / np.linalg.norm(y)
    return float(np.clip(x @ y, -1.0, 1.0))


def cosine(vectors: NDArray[np.floating], first: list[int], second: list[int], rows: int = 4096) -> Vector:
    """Cosine of each pair of rows, in float64; 0 where a vector is zero, as in the field's engine."""
    parts = [np.zeros(0)]
    for start in range(0, len(first), rows):
        a = vectors[first[start : start + rows]].astype(np.float64)  # (rows, D)
        b = vectors[second[start : start + rows]].astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            parts.append(np.nan_to_num(row_dot(a, b) / (np.sqrt(row_dot(a, a)) * np.sqrt(row_dot(b, b)))))
    return np.concatenate(parts)


def nearness(vectors: NDArray[np.floating], first: list[int], second: list[int], rows: int = 4096) -> Vector:
    """The negative Euclidean distance of each pair of rows, in float64."""
    parts = [np.zeros(0)]
    for start in range(0, len(first), rows):
        apart = vectors[first[start : start + rows]].astype(np.float64) - vectors[second[start : start + rows]]
        parts.append(-np.sqrt(row_dot(apart, apart)))  # (rows,)
    return np.concatenate(parts)


def _mean(scores: Mapping[str, Correlation], weights: Mapping[str, int]) -> Correlation:
    total = sum(weights.values())
    return Correlation(
        spearman=sum(scores[s].spearman * weights[s] for s in scores) / total,
        pearson=sum(scores[s].pearson * weights[s] for s in scores) / total,
    )


def checked(vectors: NDArray[np.floating], texts: list[str]) -> NDArray[np.floating]:
    """Refuse vectors that are not one row of finite numbers per text."""
    if vectors.ndim != 2 or len(vectors) != len(texts):
        raise UserError(
            f"the model returned an array of shape {vectors.shape} for {len(texts)} texts; (n, D) is needed\n"
            "fix: return one vector per text from encode"
        )
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise UserError(
            f"the model returned nan or infinity for {len(bad)} of {len(texts)} texts, the first being "
            f"{texts[bad[0]][:60]!r}\nfix: try --precision fp32; if that does not help, the checkpoint is broken"
        )
    return vectors
