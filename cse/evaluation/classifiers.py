"""How well simple classifiers tell labels by vectors: which of the scored rows each of them gets right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cse.errors import UserError
from cse.evaluation.transfer import Labels, Matrix, fit_logistic

Predict = Callable[[Matrix, Labels, Matrix], Labels]  # from training vectors, their labels, and vectors to label
Right = NDArray[np.float64]  # (n,) 1 where the label is right, 0 where it is wrong, or a share of several attempts

FEW_SHOT_STEPS = 100  # mteb's


def probe(x: Matrix, y: Labels, new: Matrix) -> Labels:
    """Logistic regression of each class against the rest, at the regularization of scikit-learn's default."""
    return np.asarray(fit_logistic(x.astype(np.float64), y, 1.0).predict(new))


def nearest_mean(x: Matrix, y: Labels, new: Matrix) -> Labels:
    """The class with the nearest mean of unit vectors, by Euclidean distance."""
    from sklearn.neighbors import NearestCentroid

    return np.asarray(NearestCentroid().fit(_unit(x), y).predict(_unit(new)))


def nearest_neighbors(k: int) -> Predict:
    """The majority among the k rows with the largest cosine; of equally many, the class that sorts first.

    Args:
        k: Number of rows.
    """

    def predict(x: Matrix, y: Labels, new: Matrix) -> Labels:
        from sklearn.neighbors import KNeighborsClassifier

        if k > len(y):
            raise UserError(
                f"evaluator.neighbors is {k}, but labels are predicted from {len(y)} rows\n"
                "fix: give fewer neighbors or more rows"
            )
        return np.asarray(KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(x, y).predict(new))

    return predict


def few_shot(x: Matrix, y: Labels, new: Matrix, truth: Labels, shots: int, repetitions: int, seed: int) -> Right:
    """The share of repetitions that get each row right, after training on `shots` rows of each class.

    Source: mteb's classification tasks (`AbsTaskClassification`), whose draws and classifier these are.

    Args:
        x: (m, D) training vectors.
        y: (m,) their labels.
        new: (n, D) vectors to label.
        truth: (n,) the right labels.
        shots: Rows of each class.
        repetitions: Number of draws.
        seed: Seed of the draws.

    Raises:
        UserError: A class has fewer rows.
    """
    from sklearn.linear_model import LogisticRegression

    classes, sizes = np.unique(y, return_counts=True)
    if sizes.min() < shots:
        raise UserError(
            f"evaluator.shots is {shots}, but only {sizes.min()} rows have the label {str(classes[sizes.argmin()])!r}\n"
            "fix: give a smaller evaluator.shots, or more rows of that label"
        )
    order, right = list(range(len(y))), np.zeros(len(truth))
    for _ in range(repetitions):
        np.random.RandomState(seed).shuffle(order)  # each draw shuffles the order of the one before
        drawn = _first_of_each(order, y, shots)
        model = LogisticRegression(max_iter=FEW_SHOT_STEPS, random_state=seed).fit(x[drawn], y[drawn])
        right += model.predict(new) == truth
    return right / repetitions


def _first_of_each(order: list[int], y: Labels, shots: int) -> list[int]:
    """The first `shots` rows of each label in an order."""
    taken, drawn = Counter[str](), []
    for i in order:
        if taken[y[i]] < shots:
            taken[y[i]] += 1
            drawn.append(i)
    return drawn


def _unit(x: Matrix) -> Matrix:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.finfo(np.float32).tiny)
