"""Labels: how well do simple classifiers tell the labels of texts by their vectors?"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sized
from dataclasses import KW_ONLY, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from cse.data.datasets import Texts
from cse.errors import Count, UserError
from cse.evaluation.encoding import encode_distinct
from cse.evaluation.evaluator import EvalResult, OfTexts, labeled_texts, rows_hash, set_name
from cse.evaluation.evaluators.classifiers import Labels as Names
from cse.evaluation.evaluators.classifiers import (
    Matrix,
    Predict,
    Right,
    few_shot,
    make_folds,
    nearest_mean,
    nearest_neighbors,
    probe,
    require_rows,
)
from cse.interfaces import SentenceEncoder

Judge = Callable[[Matrix, Names, Matrix, Names], Right]  # from training vectors and labels, and those that are scored
SEED = 42  # mteb's, of the draws and of each k-means


@dataclass(eq=False, repr=False)
class Labels(OfTexts):
    """Accuracy x 100 of classifiers on vectors: `probe`, `nearest_mean`, and where asked `neighbors` and `few_shot`.

    Without training rows, the rows are split into folds, and those of each fold are labeled by classifiers of the
    others.

    Args:
        data: Texts with labels, or what `cse.data.Texts` reads them from: its column `label` then has the labels. Of a
            Hub id, the split `test`.
        train: The same, to train the classifiers on. None: the other folds of `data`.
        folds: Number of folds without `train`; fewer if a label has fewer rows. Rows whose label occurs once are left
            out and counted.
        neighbors: Number of nearest rows that vote (`neighbors`). None: no such score.
        shots: Number of training rows of each label (`few_shot`), the mean over draws. None: no such score.
        draws: Number of draws of these rows.
        seed: Seed of the draws.

    Raises:
        UserError: The rows cannot be read, have fewer than two labels, or do not suffice for a classifier; or a label
            of `data` does not occur in `train`.

    Source:
        `probe` is SentEval's logistic regression (`cse.evaluation.evaluators.transfer`) with the regularization
        C = 1, and `few_shot` is mteb's classification (`AbsTaskClassification`: 8 shots, 10 draws, seed 42).
    """

    primary = "probe"

    data: Texts | str | Path | Sized
    _: KW_ONLY
    train: Texts | str | Path | Sized | None = None
    folds: Annotated[int, ">= 2"] = 5
    neighbors: Count | None = None
    shots: Count | None = None
    draws: Count = 10
    seed: int = 42

    def __post_init__(self) -> None:
        super().__post_init__()
        self._data, self._texts, labels = labeled_texts(self.data, "data")
        self.name = self.name or set_name(self._data)
        self._single = 0
        if self.train is None:
            often = Counter(labels)
            kept = [i for i, label in enumerate(labels) if often[label] > 1]
            self._single = len(labels) - len(kept)
            self._texts, labels = [self._texts[i] for i in kept], [labels[i] for i in kept]
            if len(set(labels)) < 2:
                raise UserError(
                    f"evaluator.data: {self._single} rows of {self._data.name} have a label that occurs once, which "
                    f"leaves {len(set(labels))} labels\nfix: give more rows of each label, or evaluator.train"
                )
            self._label, self._train_hash = np.array(labels), ""
            self._splits = make_folds(self._label, self.folds)
        else:
            given, texts, names = labeled_texts(self.train, "train", split="train")
            unknown = sorted(set(labels) - set(names))
            if unknown:
                raise UserError(
                    f"evaluator.train: {given.name} has no row with the label {unknown[0]!r}, which "
                    f"{labels.count(unknown[0])} rows of {self._data.name} have ({len(unknown)} such labels)\n"
                    "fix: give training rows of every label"
                )
            ends = len(labels), len(labels) + len(names)
            self._label, self._train_hash = np.array([*labels, *names]), given.hash
            self._texts += texts
            self._splits = [(np.arange(*ends), np.arange(ends[0]))]
        for rows, _ in self._splits:
            require_rows(self._label[rows], self.neighbors, self.shots)

    def measure(self, encoder: SentenceEncoder) -> list[EvalResult]:
        vectors, row = encode_distinct(encoder, self._texts, self.precision, self.prompt)
        x, y = vectors[[row[text] for text in self._texts]], self._label  # (n, D), (n,)
        judges = self._judges()
        scored = np.concatenate([test for _, test in self._splits])
        right = {name: np.empty(len(scored)) for name in judges}
        for train, test in self._splits:
            for name, judge in judges.items():
                right[name][test] = judge(x[train], y[train], x[test], y[test])
        return self.found(
            kind="labels",
            unit="texts",
            measures={name: ("mean", name) for name in judges},
            arrays=right,
            sha256=rows_hash([[self._data.hash, self._train_hash, len(self._splits), self.neighbors, self.shots]]),
            left_out={"label_once": self._single},
            labels=len(set(y)),
            folds=len(self._splits) if self.train is None else 0,
        )

    def _judges(self) -> dict[str, Judge]:
        """The classifiers by the name of their score."""
        found: dict[str, Judge] = {"probe": _judge(probe), "nearest_mean": _judge(nearest_mean)}
        if self.neighbors is not None:
            found["neighbors"] = _judge(partial(nearest_neighbors, self.neighbors))
        if self.shots is not None:
            found["few_shot"] = partial(few_shot, self.shots, self.draws, self.seed)
        return found


def _judge(predict: Predict) -> Judge:
    return lambda x, y, new, truth: (predict(x, y, new) == truth).astype(np.float64)


@dataclass(eq=False, repr=False)
class Clustering(OfTexts):
    """V-measure x 100 of clusters with labels: the mean over several clusterings by mini-batch k-means.

    Args:
        data: Texts with labels, or what `cse.data.Texts` reads them from: its column `label` then has the labels. Of a
            Hub id, the split `test`.
        repetitions: Number of clusterings.
        sample: Number of rows that each of them draws, with replacement.
        batch_size: Number of rows in a batch of k-means.

    Raises:
        UserError: The rows cannot be read, have fewer than two labels, or are fewer than the labels in a sample.

    Source:
        mteb's clustering tasks (`AbsTaskClustering`), on all rows.
    """

    primary = "v_measure"

    data: Texts | str | Path | Sized
    _: KW_ONLY
    repetitions: Count = 10
    sample: Count = 16_384
    batch_size: Count = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        self._data, self._texts, labels = labeled_texts(self.data, "data")
        self.name = self.name or set_name(self._data)
        self._classes, self._label = np.unique(labels, return_inverse=True)
        if self.sample < len(self._classes):
            raise UserError(
                f"evaluator.sample is {self.sample}, but the rows have {len(self._classes)} labels\n"
                f"fix: give {len(self._classes)} or more"
            )

    def measure(self, encoder: SentenceEncoder) -> list[EvalResult]:
        vectors, row = encode_distinct(encoder, self._texts, self.precision, self.prompt)
        ordered = vectors[[row[text] for text in self._texts]]  # (n, D)
        cluster, drawn = clusterings(ordered, len(self._classes), self.repetitions, self.sample, self.batch_size)
        return self.found(
            kind="clustering",
            unit="texts",
            measures={"v_measure": ("v_measure", "cluster", "label", "drawn")},
            arrays={"cluster": cluster, "label": self._label, "drawn": drawn},
            sha256=rows_hash([[self._data.hash, self.repetitions, self.sample, self.batch_size]]),
            labels=len(self._classes),
        )


def clusterings(
    vectors: NDArray[np.floating], clusters: int, repetitions: int, sample: int, batch_size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cluster vectors (n, D) several times, each time a sample of them that is drawn with replacement.

    Returns:
        (n, R) the number of each row's cluster, -1 where it was not drawn; and how often it was drawn.

    Source: `_evaluate_clustering_bootstrapped` of mteb.
    """
    from sklearn.cluster import MiniBatchKMeans

    n = len(vectors)
    cluster, drawn = np.full((n, repetitions), -1), np.zeros((n, repetitions), dtype=np.int64)
    model = MiniBatchKMeans(clusters, batch_size=batch_size, init="k-means++", n_init=1, random_state=SEED)
    rng = random.Random(SEED)
    for repetition in range(repetitions):
        rows = np.array(rng.choices(range(n), k=sample))
        cluster[rows, repetition] = model.fit_predict(vectors[rows])
        drawn[:, repetition] = np.bincount(rows, minlength=n)
    return cluster, drawn
