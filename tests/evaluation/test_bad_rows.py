"""Rows and arguments that an evaluator cannot score: one clear error each, before a model is loaded where possible."""

import math

import numpy as np
import pytest

from cse import data
from cse.evaluation import Clustering, Labels, PairClassification, Paraphrases, Similarity, Triplets
from tests.refusals import refuses

PAIRS = [("a cat", "a dog"), ("a mat", "the sun"), ("red moon", "blue moon"), ("one", "two"), ("x", "y")]
LABELED = [{"text": f"text {i}", "label": "abc"[i % 3]} for i in range(12)]


def scored(*scores):
    return [(*pair, score) for pair, score in zip(PAIRS, scores, strict=False)]


def triplets(*rows):
    return data.Triplets([dict(zip("apn", row, strict=True)) for row in rows], columns=["a", "p", "n"])


def labeled(*labels):
    return [{"text": f"text {i}", "label": label} for i, label in enumerate(labels)]


def similarity(*scores):
    return lambda: Similarity(scored(*scores))


def pair_classification(*labels, **options):
    return lambda: PairClassification(scored(*labels), **options)


def labels(*own, **options):
    return lambda: Labels(labeled(*own) if own else LABELED, **options)


def clustering(*own, **options):
    return lambda: Clustering(labeled(*own) if own else LABELED, **options)


SAME = triplets(("a", "b", "B."), ("c", "d", "d"))
REFUSED = {  # what is said -> the evaluator that is made
    "row 2 has the score": similarity(0.1, math.nan, 0.5),
    "row 2 has the score 'high'": similarity(0.1, "high", 0.5),
    "row 2 has the score 'inf'": similarity(0.1, math.inf, 0.5),
    "all 3 gold scores are equal": similarity(2, 2, 2),
    "it has one row": similarity(2),
    "there is no text in it": similarity(),
    "dev.tsv: there is no such file": lambda: Similarity("dev.tsv"),
    "row 1 has 2 cells": lambda: Similarity(PAIRS),
    "data is a int|data is an int": lambda: Triplets(3),
    "no triplet .* is left: 0 have no negative, and 2": lambda: Triplets(SAME),
    "row 1 has 2 cells; expected 3": lambda: Triplets(PAIRS),
    "row 2 has the label 0.5": pair_classification(0, 0.5, 1),
    "row 2 has the score '2'": pair_classification(0, 2, 1),
    "row 2 has the score 'same'": pair_classification(0, "same", 1),
    "all 3 pairs have the label 0": pair_classification(0, 0, 0),
    "all 3 pairs have the label 1": pair_classification(1, 1, 1),
    "one pair has the label 1": pair_classification(1, 0, 0, 0),
    r"evaluator\.dev: all 2 pairs have the label 1": pair_classification(1, 0, 1, dev=[("e", "f", 1), ("g", "h", 1)]),
    r"evaluator\.dev: no pair is left": pair_classification(1, 0, 1, dev=scored(1, 0)),
    r"evaluator\.dev_share is 0": pair_classification(1, 0, 1, dev_share=0),
    r"evaluator\.dev_share is 1": pair_classification(1, 0, 1, dev_share=1.0),
    "all 2 pairs .* same text twice": lambda: Paraphrases([("a", "a"), ("b", "b")]),
    r"evaluator\.neighbors is 0": lambda: Paraphrases(PAIRS, neighbors=0),
    r"evaluator\.keep is 0": lambda: Paraphrases(PAIRS, keep=0),
    "have no labels": lambda: Clustering(data.Texts(["a", "b"])),
    "have one label, 'a'": clustering("a", "a", "a"),
    "row 2 has no label": clustering("a", None, "b"),
    r"evaluator\.sample is 2, .* 3 labels": clustering(sample=2),
    r"evaluator\.repetitions is 0": clustering(repetitions=0),
    "rows .* have one label, 'a'": labels("a", "a", "a"),
    "3 rows .* have a label that occurs once": labels("a", "b", "c"),
    "occurs once, which leaves 1 labels": labels("a", "a", "b"),
    r"evaluator\.train: .* no row with the label 'c', which 4 rows": labels(train=labeled("a", "b", "a", "b")),
    r"evaluator\.train: .* have one label, 'a'": labels(train=labeled("a", "a")),
    "neighbors is 7, but .* from 6 rows": labels(folds=2, neighbors=7),
    "shots is 3, but only 2 training rows": labels(folds=2, shots=3),
    r"evaluator\.folds is 1": labels(folds=1),
    r"evaluator\.shots is 0": labels(shots=0),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refused_before_a_model_is_loaded(message):
    refuses(message, REFUSED[message])


class Collapsed:
    def encode(self, texts, *, batch_size=64):
        return np.ones((len(texts), 4), dtype=np.float32)


def test_a_collapsed_model_has_no_score_and_no_triplet_right():
    refuses("gives all 3 pairs the same similarity", lambda: Similarity(scored(1, 2, 3))(Collapsed()))
    refuses("the same similarity, 1", lambda: PairClassification(scored(1, 0, 1, 0))(Collapsed()))
    assert Triplets(triplets(("a", "b", "c"), ("d", "e", "f")))(Collapsed()) == {"accuracy": 0.0}
