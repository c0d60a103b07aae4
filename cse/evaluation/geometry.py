"""Describe the space of vectors, apart from any score."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cse.encoder.vectors import unit
from cse.errors import UserError
from cse.evaluation.evaluators.sts_rows import Pairs
from cse.evaluation.statistic import Vector, correlation
from cse.objectives.parts.functional import alignment, uniformity

POSITIVE = 4.0  # out of 5; pairs with this gold score or more count as positives, as in the evaluation of DCLR
FALSE, TRUE = 2.0, 3.0  # out of 5; pairs that do not mean the same, and pairs that do
ROUNDED = 1e-12  # a share of the variance that is left by rounding
SAMPLE = 2048  # vectors whose distances uniformity looks at
SPECTRUM = 64  # directions whose share of the variance is kept
WORD = re.compile(r"\w+")


def measure(
    vectors: NDArray[np.floating],
    row: Mapping[str, int],
    tasks: Mapping[str, Mapping[str, Pairs]],
    similarities: Mapping[str, Vector],
) -> dict[str, Any]:
    """Measures over all sentences, of vectors (n, D), and over all pairs.

    `row` is the row of each sentence; pairs and their similarities (n,) are by task.
    """
    pairs = [p for subsets in tasks.values() for p in subsets.values()]
    cosines = np.concatenate(list(similarities.values()))
    x = unit(vectors.astype(np.float64))
    rng = np.random.default_rng(0)
    some = torch.from_numpy(rng.permutation(x)[:SAMPLE])
    share = spectrum(x)
    return {
        "alignment": _alignment(x, row, pairs),
        "uniformity": float(uniformity(some)) if len(some) > 1 else None,
        "mean_cosine": mean_cosine(x),
        "effective_rank": effective_rank(share),
        "dim": int(vectors.shape[1]),
        "spectrum": [float(f"{v:.4g}") for v in share[:SPECTRUM]],
        "overlap": overlap(pairs, cosines),
        "traps": traps(pairs, cosines),
    }


def mean_cosine(unit: Vector) -> float | None:
    """Mean cosine of distinct rows, from the length of their sum: |sum u|^2 = n + the sum over pairs."""
    n = len(unit)
    return float((np.square(unit.sum(0)).sum() - np.square(unit).sum()) / (n * (n - 1))) if n > 1 else None


def spectrum(unit: Vector) -> Vector:
    """Share of the variance along each principal direction, largest first: (D,)."""
    values = np.linalg.eigvalsh(np.cov(unit, rowvar=False, bias=True).reshape(unit.shape[1], -1))[::-1].clip(0)
    total = values.sum()
    return values / total if total > 0 else values


def effective_rank(share: Vector) -> float:
    """Exponential of the entropy of the singular values' shares (Roy and Vetterli, 2007): from 1 to D."""
    singular = np.sqrt(share)
    p = singular[singular > 0] / singular.sum()
    return float(np.exp(-(p * np.log(p)).sum())) if len(p) else 0.0


def overlap(pairs: Sequence[Pairs], cosines: Vector) -> list[dict[str, Any]]:
    """Spearman x 100 in each quartile of lexical overlap: does the score come from shared words alone?"""
    shared, gold = _shared(pairs)
    edges = np.quantile(shared, [0.25, 0.5, 0.75])
    quartile = np.searchsorted(edges, shared, side="left")
    found = []
    for q in range(4):
        inside = quartile == q
        bounds = [float(shared[inside].min()), float(shared[inside].max())] if inside.any() else None
        found.append({"jaccard": bounds, "n": int(inside.sum()), "spearman": _spearman(cosines[inside], gold[inside])})
    return found


def traps(pairs: Sequence[Pairs], cosines: Vector) -> dict[str, Any]:
    """Does the similarity follow shared words where the meaning does not?

    `partial` is the Spearman correlation x 100 of similarity and gold score for a given lexical overlap,

        (r_cg - r_co r_go) / sqrt( (1 - r_co^2) (1 - r_go^2) )

    of the rank correlations of cosine c, gold score g and overlap o; None where it is undefined. `trap` has the pairs
    of the highest quartile of overlap whose gold score is at most `FALSE`, and `reverse` those of the lowest quartile
    with at least `TRUE`: the number and the mean similarity, None without pairs.
    """
    shared, gold = _shared(pairs)
    edges = np.quantile(shared, [0.25, 0.75])
    return {
        "partial": _partial(cosines, gold, shared),
        "trap": _mean_of(cosines, (shared >= edges[1]) & (gold <= FALSE)),
        "reverse": _mean_of(cosines, (shared <= edges[0]) & (gold >= TRUE)),
    }


def _shared(pairs: Sequence[Pairs]) -> tuple[Vector, Vector]:
    """(n,) the lexical overlap and the gold score of each pair."""
    texts = [(a, b) for p in pairs for a, b in zip(p.first, p.second, strict=True)]
    return np.array([jaccard(a, b) for a, b in texts]), np.concatenate([p.gold for p in pairs])


def _partial(cosines: Vector, gold: Vector, shared: Vector) -> float | None:
    found = [_spearman(a, b) for a, b in ((cosines, gold), (cosines, shared), (gold, shared))]
    if any(r is None for r in found):
        return None
    cg, co, go = (float(r or 0) / 100 for r in found)
    left = (1 - co**2) * (1 - go**2)
    return 100 * (cg - co * go) / left**0.5 if left > ROUNDED else None


def _mean_of(cosines: Vector, rows: NDArray[np.bool_]) -> dict[str, Any]:
    return {"n": int(rows.sum()), "cosine": float(cosines[rows].mean()) if rows.any() else None}


def jaccard(a: str, b: str) -> float:
    """Shared words over all words, lower-cased; 0 where there are none."""
    x, y = set(WORD.findall(a.lower())), set(WORD.findall(b.lower()))
    return len(x & y) / len(x | y) if x | y else 0.0


def _alignment(unit: Vector, row: Mapping[str, int], pairs: Sequence[Pairs]) -> float | None:
    first = [row[t] for p in pairs for t, g in zip(p.first, p.gold, strict=True) if g >= POSITIVE]
    second = [row[t] for p in pairs for t, g in zip(p.second, p.gold, strict=True) if g >= POSITIVE]
    return float(alignment(torch.from_numpy(unit[first]), torch.from_numpy(unit[second]))) if first else None


def _spearman(cosines: Vector, gold: Vector) -> float | None:
    try:
        return correlation(cosines, gold).spearman
    except (UserError, ValueError):  # too few or all alike: nothing to rank
        return None


def worst(tasks: Mapping[str, Pairs], cosine: Vector, gold: Vector, keep: int = 20) -> list[dict[str, Any]]:
    """The pairs whose rank by similarity is farthest from their rank by gold score; gap > 0 is too similar."""
    from scipy.stats import rankdata

    gap = (rankdata(cosine) - rankdata(gold)) / len(gold)
    texts = list(chain.from_iterable(zip(p.first, p.second, strict=True) for p in tasks.values()))
    found = []
    for i in np.argsort(-np.abs(gap), kind="stable")[:keep]:
        first, second = texts[i]
        found.append(
            {
                "sentence1": first[:500],
                "sentence2": second[:500],
                "gold": float(gold[i]),
                "cosine": round(float(cosine[i]), 4),
                "gap": round(float(gap[i]), 4),
            }
        )
    return found
