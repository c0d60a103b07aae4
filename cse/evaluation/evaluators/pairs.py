"""Pairs and triplets of texts: do their cosines rank them as scores, labels or roles do?"""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import KW_ONLY, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np

from cse.batch import Example
from cse.data import datasets
from cse.data.datasets import Dataset, ScoredPairs
from cse.data.reading.texts import same_text_key
from cse.errors import UserError
from cse.evaluation.encoding import comparison, encode_distinct
from cse.evaluation.evaluator import TEST, EvalResult, OfTexts, rows_hash, set_name
from cse.evaluation.statistic import Vector, correlation
from cse.interfaces import SentenceEncoder
from cse.seeding import python_rng


@dataclass(eq=False, repr=False)
class Similarity(OfTexts):
    """Correlation x 100 of cosines with scores: `spearman` and `pearson`.

    For a model that is compared by distance, the cosine is replaced by the negative distance.

    Args:
        data: Scored pairs, or what `cse.data.ScoredPairs` reads them from, on any scale; of a Hub id, the split `test`.

    Raises:
        UserError: The rows cannot be read, or all scores are equal.
    """

    primary = "spearman"

    data: ScoredPairs | str | Path | Sized

    def __post_init__(self) -> None:
        super().__post_init__()
        data = self.data
        self._data = (
            data if isinstance(data, Dataset) else ScoredPairs(data, min_score=None, max_score=None, split=TEST)
        )
        self.name, self._texts = self.name or set_name(self._data), [row.texts for row in self._data]
        self._gold = np.array([row.score for row in self._data])
        correlation(np.arange(float(len(self._gold))), self._gold, self.name)  # refuses equal scores

    def measure(self, encoder: SentenceEncoder) -> list[EvalResult]:
        first, second = ([texts[side] for texts in self._texts] for side in (0, 1))
        vectors, row = encode_distinct(encoder, [*first, *second], self.precision, self.prompt)
        similarity = comparison(encoder)(vectors, [row[text] for text in first], [row[text] for text in second])
        correlation(similarity, self._gold, str(self.name))  # refuses equal cosines
        measures = {name: (name, "cosine", "gold") for name in ("spearman", "pearson")}
        arrays = {"cosine": similarity, "gold": self._gold}
        return self.found(kind="similarity", unit="pairs", measures=measures, arrays=arrays)


@dataclass(eq=False, repr=False)
class Triplets(OfTexts):
    """Share x 100 of the triplets whose anchor has a larger cosine with its positive than with every negative.

    A row without a negative, or with a negative that is the same text as its positive, is left out and counted. For a
    model that is compared by distance, the cosine is replaced by the negative distance.

    Args:
        data: Triplets, or what `cse.data.Triplets` reads them from; of a Hub id, the split `test`.

    Raises:
        UserError: The rows cannot be read, or none is left.

    Source:
        `TripletEvaluator` of sentence-transformers, for one negative: equal cosines count as wrong.
    """

    primary = "accuracy"

    data: datasets.Triplets | str | Path | Sized

    def __post_init__(self) -> None:
        super().__post_init__()
        data = self.data
        self._data = data if isinstance(data, Dataset) else datasets.Triplets(data, split=TEST)
        self.name = self.name or set_name(self._data)
        rows = [row.texts for row in self._data]
        without = [len(texts) < 3 for texts in rows]
        same = [same_text_key(texts[1]) in map(same_text_key, texts[2:]) for texts in rows]
        self._left_out = {"without_negative": sum(without), "same_as_negative": sum(same)}
        self._texts = [texts for texts, *out in zip(rows, without, same, strict=True) if not any(out)]
        if not self._texts:
            raise UserError(
                f"evaluator.data: no triplet of {self._data.name} is left: {sum(without)} have no negative, and "
                f"{sum(same)} have a negative that is their positive\nfix: give rows of anchor, positive and negative"
            )

    def measure(self, encoder: SentenceEncoder) -> list[EvalResult]:
        pairs = [(anchor, text) for anchor, *others in self._texts for text in others]
        similarity = _similarity(encoder, pairs, self.precision, self.prompt)
        starts = np.cumsum([0, *(len(texts) - 1 for texts in self._texts)])
        right = [similarity[a] > similarity[a + 1 : b].max() for a, b in pairwise(starts)]
        return self.found(
            kind="triplets",
            unit="triplets",
            measures={"accuracy": ("mean", "right")},
            arrays={"right": right},
            left_out=self._left_out,
        )


@dataclass(eq=False, repr=False)
class PairClassification(OfTexts):
    """Average precision x 100 of all pairs (`ap`), and `f1` and `accuracy` of those that fitted no threshold.

    A pair is predicted to be positive if its cosine reaches a threshold, which is fitted for each of the two measures
    on dev rows, and reported. For a model that is compared by distance, the cosine is replaced by the negative
    distance.

    Args:
        data: Pairs with labels 0 and 1 as their scores, or what `cse.data.ScoredPairs` reads them from; of a Hub
            id, the split `test`.
        dev: The same (split `validation`), to fit the thresholds on; pairs that are among those of `data` are left out
            and counted. None: a share of `data`, on which F1 and accuracy are then not scored.
        dev_share: That share, in (0, 1), of the pairs of each label.
        seed: Seed of the choice of that share.

    Raises:
        UserError: The rows cannot be read, a label is neither 0 nor 1, or one of the two does not occur.

    Deviations:
        mteb and sentence-transformers fit the thresholds on the pairs that are scored, so their F1 and accuracy are
        the highest possible ones.
    """

    primary = "ap"

    data: ScoredPairs | str | Path | Sized
    _: KW_ONLY
    dev: ScoredPairs | str | Path | Sized | None = None
    dev_share: Annotated[float, "in (0, 1)"] = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        data, dev = self.data, self.dev
        self._data = data if isinstance(data, Dataset) else ScoredPairs(data, split=TEST)
        self.name = self.name or set_name(self._data)
        self._texts, self._label = _labeled(self._data, "data")
        if dev is None:
            chosen = _share(self._label, self.dev_share, self.seed)
            self._dev, self._dev_label = [self._texts[i] for i in chosen], self._label[chosen]
            self._scored, self._shared = np.setdiff1d(np.arange(len(self._label)), chosen), 0
        else:
            known = {_key(row) for row in self._data}
            rows = dev if isinstance(dev, Dataset) else ScoredPairs(dev, split="validation")
            apart = [row for row in rows if _key(row) not in known]
            self._dev, self._dev_label = _labeled(apart, "dev")
            self._scored, self._shared = np.arange(len(self._label)), len(rows) - len(apart)

    def measure(self, encoder: SentenceEncoder) -> list[EvalResult]:
        similarity = _similarity(encoder, [*self._texts, *self._dev], self.precision, self.prompt)
        similarity, dev = similarity[: len(self._texts)], similarity[len(self._texts) :]
        thresholds = fit_thresholds(dev, self._dev_label)
        judged, label = similarity[self._scored], self._label[self._scored]
        return self.found(
            kind="pair classification",
            unit="pairs",
            measures={
                "ap": ("average_precision", "cosine", "label"),
                "f1": ("f1", "predicted", "judged"),
                "accuracy": ("mean", "right"),
            },
            arrays={
                "cosine": similarity,
                "label": self._label,
                "predicted": judged >= thresholds.f1,
                "judged": label,
                "right": (judged >= thresholds.accuracy) == label,
            },
            sha256=rows_hash([[self._data.hash], self._scored]),
            left_out={"dev_among_scored": self._shared},
            threshold_f1=thresholds.f1,
            threshold_accuracy=thresholds.accuracy,
            dev_rows=len(dev),
        )


def _similarity(
    encoder: SentenceEncoder, pairs: Sequence[tuple[str, ...]], precision: str, prompt: str | None
) -> Vector:
    """The similarity of each pair of texts: (n,)."""
    vectors, row = encode_distinct(encoder, (text for pair in pairs for text in pair), precision, prompt)
    return comparison(encoder)(vectors, [row[first] for first, _ in pairs], [row[second] for _, second in pairs])


def _key(row: Example) -> tuple[str, ...]:
    return tuple(sorted(map(same_text_key, row.texts)))


def _labeled(rows: Sequence[Example], option: str) -> tuple[list[tuple[str, ...]], Vector]:
    label = np.array([row.score for row in rows], dtype=np.float64)
    other = np.flatnonzero((label != 0) & (label != 1))
    if len(other):
        raise UserError(
            f"evaluator.{option}: row {other[0] + 1} has the label {label[other[0]]:g}, which must be 0 or 1\n"
            "fix: give pairs with labels 0 and 1, or use cse.evaluation.Similarity for graded ones"
        )
    if len(set(label)) < 2:
        only = f"all {len(label)} pairs have the label {label[0]:g}" if len(label) else "no pair is left"
        raise UserError(f"evaluator.{option}: {only}\nfix: give pairs with both labels, 0 and 1")
    return [row.texts for row in rows], label


def _share(label: Vector, share: float, seed: int) -> list[int]:
    """Row numbers of a share of each label, at least one, and not all unless there is one row only."""
    rng, chosen = python_rng("pair classification", seed), list[int]()
    for value in (0, 1):
        rows = np.flatnonzero(label == value).tolist()
        if len(rows) < 2:
            raise UserError(
                f"evaluator.data: one pair has the label {value}, and it cannot both fit a threshold and be scored\n"
                "fix: give evaluator.dev, or more pairs of that label"
            )
        chosen += rng.sample(rows, min(len(rows) - 1, max(1, round(share * len(rows)))))
    return sorted(chosen)


class Thresholds(NamedTuple):
    """The similarities from which a pair is predicted to be positive, for F1 and for accuracy."""

    f1: float
    accuracy: float


def fit_thresholds(similarity: Vector, positive: Vector) -> Thresholds:
    """The best thresholds of pairs with similarities (n,) and labels (n,), 0 or 1.

    A threshold lies in the middle between two neighboring similarities, so that equal ones are never told apart; of
    equally good ones the highest is taken. Some pair is always above it, and some pair below.

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
