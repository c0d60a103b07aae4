"""SentEval's transfer tasks: how well a logistic regression on frozen vectors does.

Folds, seeds, order of rows, features of pairs, the grid of regularization and one class against the rest are SentEval's
(of its own scikit-learn classifier). Deviations: that one, liblinear's, also regularized the intercept. The numbers in
papers come from SentEval's other classifier, a softmax layer trained by Adam with early stopping (kfold 10, batch 64,
tenacity 5, epoch_size 4), where this one is solved to its optimum. SentEval sorts rows by the number of Moses tokens,
which are counted here as words between spaces.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cse.errors import UserError
from cse.evaluation import discourse
from cse.evaluation.classifiers import SEED, Labels, Matrix, fit_logistic, fit_softmax, nearest_mean
from cse.evaluation.sts import Embed, checked
from cse.evaluation.transfer_data import Labeled, Row, specs

FOLDS = 10  # same as in SentEval's full setting; its quick setting has 5
GRID = [2.0**t for t in range(-2, 4)]  # inverse strengths of regularization

Fit = Callable[[Matrix, Labels, float], Any]


@dataclass(frozen=True)
class Accuracy:
    """Accuracy on one task, times 100.

    Attributes:
        test: Accuracy on the test rows: the score.
        dev: Accuracy on the rows that chose the regularization.
        n: Number of test rows.
        nearest_mean: Accuracy on the test rows of the class with the nearest mean, for which nothing is chosen.
        f1: F1 of the class "1", for MRPC.
    """

    test: float
    dev: float
    n: int
    nearest_mean: float
    f1: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """For results.json."""
        spread = 1.96 * math.sqrt(max(self.test * (100 - self.test), 0.0) / self.n)
        bounds = [round(max(0.0, self.test - spread), 3), round(min(100.0, self.test + spread), 3)]
        found = {"accuracy": self.test, "dev": self.dev, "n": self.n, "nearest_mean": self.nearest_mean}
        return found | {"f1": self.f1, "interval": bounds}


def split_names(names: str) -> tuple[str, list[str]]:
    """Names of STS tasks, left together, and those of tasks with labels.

    `transfer` stands for all of SentEval's, and `discoeval` for all of `cse.evaluation.discourse`.
    """
    groups = {"transfer": list(specs()), "discoeval": list(discourse.specs())}
    upper = {name.upper(): name for names in groups.values() for name in names}
    rest, found = [], []
    for name in filter(None, (part.strip() for part in names.split(","))):
        if name.lower() in groups:
            found += groups[name.lower()]
        elif name.upper() in upper:
            found.append(upper[name.upper()])
        else:
            rest.append(name)
    return ",".join(rest), list(dict.fromkeys(found))


def score(data: Labeled, embed: Embed, folds: int = FOLDS) -> Accuracy:
    """Score one task."""
    if data.name in discourse.specs():
        return _discourse(data, embed)
    splits = {name: _prepared(rows, embed) for name, rows in data.splits.items()}
    if data.protocol == "folds":
        return _nested(*splits["all"], folds)
    if data.protocol == "split":
        train, dev = splits["train"], splits["dev"]
        return _chosen(train, splits["test"], lambda c: fit_logistic(*train, c).score(*dev))
    x, y = splits["train"]
    return _chosen(splits["train"], splits["test"], _inner(x, y, folds), f1=specs()[data.name].get("pairs", False))


def _discourse(data: Labeled, embed: Embed) -> Accuracy:
    spec = discourse.specs()[data.name]
    splits = {name: discourse.features(rows, spec["features"], embed) for name, rows in data.splits.items()}
    train, dev = splits["train"], splits["dev"]
    grid = GRID if spec["regularized"] else [discourse.UNREGULARIZED]
    return _chosen(train, splits["test"], lambda c: fit_softmax(*train, c).score(*dev), grid=grid, fit=fit_softmax)


def _prepared(rows: Sequence[Row], embed: Embed) -> tuple[Matrix, Labels]:
    """Features and labels in SentEval's order, which its folds depend on: by length, then by label."""
    ordered = sorted(rows, key=lambda row: (*(len(text.split()) for text in row.texts), row.label))
    distinct = list(dict.fromkeys(text for row in ordered for text in row.texts))
    vectors = checked(embed(distinct), distinct).astype(np.float64)  # float32 is too coarse for Newton's Hessian
    place = {text: i for i, text in enumerate(distinct)}
    sides = [vectors[[place[row.texts[side]] for row in ordered]] for side in range(len(ordered[0].texts))]
    x = sides[0] if len(sides) == 1 else np.hstack([np.abs(sides[0] - sides[1]), sides[0] * sides[1]])
    return x, np.array([row.label for row in ordered])


def _nested(x: Matrix, y: Labels, folds: int) -> Accuracy:
    """Each fold is tested once by a model whose regularization the other folds chose among themselves."""
    found = [
        _chosen((x[train], y[train]), (x[test], y[test]), _inner(x[train], y[train], folds))
        for train, test in make_folds(y, folds)
    ]
    test, dev, nearest = (float(np.mean([getattr(a, key) for a in found])) for key in ("test", "dev", "nearest_mean"))
    return Accuracy(test, dev, len(y), nearest)


def _inner(x: Matrix, y: Labels, folds: int) -> Callable[[float], float]:
    """Mean accuracy over inner folds, as a function of the regularization."""
    parts = make_folds(y, folds)
    return lambda c: float(np.mean([fit_logistic(x[train], y[train], c).score(x[dev], y[dev]) for train, dev in parts]))


def _chosen(
    train: tuple[Matrix, Labels],
    test: tuple[Matrix, Labels],
    dev: Callable[[float], float],
    *,
    f1: bool = False,
    grid: Sequence[float] = GRID,
    fit: Fit = fit_logistic,
) -> Accuracy:
    by_c = {c: dev(c) for c in grid}
    best = max(by_c, key=lambda c: by_c[c])  # the first of equals, as SentEval's argmax
    predicted = fit(*train, best).predict(test[0])
    correct = 100 * float(np.mean(predicted == test[1]))
    nearest = 100 * float(np.mean(nearest_mean(*train, test[0]) == test[1]))
    return Accuracy(correct, 100 * by_c[best], len(test[1]), nearest, _f1(predicted, test[1]) if f1 else None)


def make_folds(y: Labels, folds: int) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """The rows to train on and to test on of each fold, every class in each: at most as many as the rarest has rows.

    Raises:
        UserError: A class has one row.
    """
    from sklearn.model_selection import StratifiedKFold

    rarest = min(np.unique(y, return_counts=True)[1])
    if rarest < 2:
        raise UserError("a class has fewer than two rows, so no folds can be made\nfix: check the data")
    parts = StratifiedKFold(n_splits=min(folds, int(rarest)), shuffle=True, random_state=SEED)
    return list(parts.split(np.zeros(len(y)), y))


def _f1(predicted: Labels, gold: Labels) -> float:
    both = np.sum((predicted == "1") & (gold == "1"))
    return float(100 * 2 * both / max(1, np.sum(predicted == "1") + np.sum(gold == "1")))
