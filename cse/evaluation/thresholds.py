"""The similarity from which a pair counts as a positive one, fitted on rows that are not scored with it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cse.errors import UserError

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Thresholds:
    """Where F1 and accuracy of the rows that were fitted are highest.

    Attributes:
        f1: The similarity from which a pair is predicted to be positive, for F1.
        accuracy: The same for accuracy.
    """

    f1: float
    accuracy: float


def fit(similarity: Vector, positive: Vector) -> Thresholds:
    """The best thresholds of labeled pairs.

    A threshold lies in the middle between two neighboring similarities, so that equal ones are never told apart; of
    equally good ones the highest is taken. Some pair is always above it, and some pair below.

    Args:
        similarity: (n,) similarities.
        positive: (n,) labels, 0 or 1.

    Raises:
        UserError: The labels or the similarities are all equal.

    Source: `find_best_f1_and_threshold` and `find_best_acc_and_threshold` of sentence-transformers and mteb.
    """
    order = np.argsort(-similarity, kind="stable")
    sorted_, found = similarity[order], np.cumsum(positive[order])  # found: positives among the first rows
    total, n = found[-1] if len(found) else 0, len(positive)
    if not 0 < total < n:
        raise UserError(
            f"evaluator: all {n} rows that the threshold is fitted on have the same label\n"
            "fix: give dev rows with both labels"
        )
    cuts = np.flatnonzero(np.diff(sorted_))  # the last row above each threshold
    if not len(cuts):
        raise UserError(
            f"evaluator: the model gives all {n} pairs the same similarity, {similarity[0]:g}, so no threshold exists\n"
            "fix: train or load it again: it has collapsed, or its weights did not load"
        )
    above = cuts + 1
    f1 = 2 * found[cuts] / (above + total)
    correct = found[cuts] + (n - total) - (above - found[cuts])
    middle = (sorted_[cuts] + sorted_[cuts + 1]) / 2
    return Thresholds(float(middle[np.argmax(f1)]), float(middle[np.argmax(correct)]))
