"""Measure how well simple classifiers tell labels by vectors: which of the scored rows each of them gets right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cse.encoder.vectors import unit
from cse.errors import UserError

Matrix = NDArray[np.floating]
Labels = NDArray[np.str_]
Predict = Callable[[Matrix, Labels, Matrix], Labels]  # from training vectors, their labels, and vectors to label
Right = NDArray[np.float64]  # (n,) 1 where the label is right, 0 where it is wrong, or a share of several attempts
FEW_SHOT_STEPS = 100  # mteb's
SEED = 1111  # SentEval's
NEWTON_FEATURES = 2048  # with more of them Newton's Hessian is expensive
LONG = 2.0  # mean squared length: lbfgs takes a dozen steps on vectors of length 1, and hundreds on long ones


def probe(x: Matrix, y: Labels, new: Matrix) -> Labels:
    """Logistic regression of each class against the rest, at the regularization of scikit-learn's default."""
    return np.asarray(fit_logistic(x.astype(np.float64), y, 1.0).predict(new))


def nearest_mean(x: Matrix, y: Labels, new: Matrix) -> Labels:
    """The class whose mean of unit vectors has the largest cosine; of equal ones, the class that sorts first.

    Nothing is fitted but the means (Arora et al., ICML 2019, arXiv:1902.09229, whose mean classifier takes the inner
    product).
    """
    classes, place = np.unique(y, return_inverse=True)
    ones = (place[:, None] == np.arange(len(classes))).astype(np.float64)  # (m, C)
    means = unit(ones.T @ unit(x.astype(np.float64)))  # (C, D)
    found: Labels = classes[(new @ means.T).argmax(1)]
    return found


def fit_logistic(x: Matrix, y: Labels, c: float) -> Any:
    """Logistic regression of each class against the rest, of inverse regularization `c`, as scikit-learn's model."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    newton = x.shape[1] <= NEWTON_FEATURES and np.square(x).sum(1).mean() > LONG
    solver = "newton-cholesky" if newton else "lbfgs"
    model = LogisticRegression(C=c, random_state=SEED, max_iter=1000, solver=solver)
    return (model if len(np.unique(y)) == 2 else OneVsRestClassifier(model)).fit(x, y)


def fit_softmax(x: Matrix, y: Labels, c: float) -> Any:
    """Logistic regression of all classes at once, of inverse regularization `c`, as scikit-learn's model."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=c, random_state=SEED, max_iter=1000).fit(x, y)


def nearest_neighbors(k: int, x: Matrix, y: Labels, new: Matrix) -> Labels:
    """The majority among the k rows with the largest cosine; of equally many, the class that sorts first."""
    from sklearn.neighbors import KNeighborsClassifier

    return np.asarray(KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(x, y).predict(new))


def few_shot(shots: int, draws: int, seed: int, x: Matrix, y: Labels, new: Matrix, truth: Labels) -> Right:
    """The share of draws that get each row right, after training on `shots` rows of each class.

    `x` (m, D) and `y` (m,) are training rows, `new` (n, D) and `truth` (n,) those to label.

    Source: mteb's classification tasks (`AbsTaskClassification`), whose draws and classifier these are.
    """
    from sklearn.linear_model import LogisticRegression

    order, right = list(range(len(y))), np.zeros(len(truth))
    for _ in range(draws):
        np.random.RandomState(seed).shuffle(order)  # each draw shuffles the order of the one before
        drawn = _first_of_each(order, y, shots)
        model = LogisticRegression(max_iter=FEW_SHOT_STEPS, random_state=seed).fit(x[drawn], y[drawn])
        right += model.predict(new) == truth
    return right / draws


def require_rows(y: Labels, neighbors: int | None, shots: int | None) -> None:
    """Check that training rows with these labels suffice."""
    if neighbors is not None and neighbors > len(y):
        raise UserError(
            f"evaluator.neighbors is {neighbors}, but labels are predicted from {len(y)} rows\n"
            "fix: give fewer neighbors, or more rows"
        )
    classes, sizes = np.unique(y, return_counts=True)
    if shots is not None and shots > sizes.min():
        rarest = str(classes[sizes.argmin()])
        raise UserError(
            f"evaluator.shots is {shots}, but only {sizes.min()} training rows have the label {rarest!r}\n"
            "fix: give fewer shots, or more rows of that label"
        )


def _first_of_each(order: list[int], y: Labels, shots: int) -> list[int]:
    """The first `shots` rows of each label in an order."""
    taken, drawn = Counter[str](), []
    for i in order:
        if taken[y[i]] < shots:
            taken[y[i]] += 1
            drawn.append(i)
    return drawn


def make_folds(y: Labels, folds: int) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """The rows to train on and to test on of each fold, every class in each: at most as many as the rarest has rows."""
    from sklearn.model_selection import StratifiedKFold

    rarest = min(np.unique(y, return_counts=True)[1])
    if rarest < 2:
        raise UserError("a class has fewer than two rows, so no folds can be made\nfix: check the data")
    parts = StratifiedKFold(n_splits=min(folds, int(rarest)), shuffle=True, random_state=SEED)
    return list(parts.split(np.zeros(len(y)), y))
