"""Rows and arguments that an evaluator cannot score: one clear error each, before a model is loaded where possible."""

import math

import numpy as np
import pytest

from cse import data
from cse.errors import UserError
from cse.evaluation import Clustering, Labels, PairClassification, Paraphrases, Similarity, Triplets

PAIRS = [("a cat", "a dog"), ("a mat", "the sun"), ("red moon", "blue moon"), ("one", "two"), ("x", "y")]
LABELED = [{"text": f"text {i}", "label": "abc"[i % 3]} for i in range(12)]


def scored(*scores):
    return [(*pair, score) for pair, score in zip(PAIRS, scores, strict=False)]


def triplets(*rows):
    return data.Triplets([dict(zip("apn", row, strict=True)) for row in rows], columns=["a", "p", "n"])


def labeled(*labels):
    return [{"text": f"text {i}", "label": label} for i, label in enumerate(labels)]


REFUSED = {
    "a score that is nan": (lambda: Similarity(scored(0.1, math.nan, 0.5)), "row 2 has the score"),
    "a score in words": (lambda: Similarity(scored(0.1, "high", 0.5)), "row 2 has the score 'high'"),
    "an infinite score": (lambda: Similarity(scored(0.1, math.inf, 0.5)), "row 2 has the score 'inf'"),
    "equal scores": (lambda: Similarity(scored(2, 2, 2)), "all 3 gold scores are equal"),
    "one pair": (lambda: Similarity(scored(2)), "it has one row"),
    "no rows": (lambda: Similarity([]), "there is no text in it"),
    "no such file": (lambda: Similarity("dev.tsv"), "dev.tsv: there is no such file"),
    "no scores": (lambda: Similarity(PAIRS), "row 1 has 2 cells"),
    "a number in place of rows": (lambda: Triplets(3), "data is a int|data is an int"),
    "every positive is its negative": (
        lambda: Triplets(triplets(("a", "b", "B."), ("c", "d", "d"))),
        "no triplet .* is left: 0 have no negative, and 2",
    ),
    "triplets without a third text": (lambda: Triplets(PAIRS), "row 1 has 2 cells"),
    "a label between 0 and 1": (lambda: PairClassification(scored(0, 0.5, 1)), "row 2 has the label 0.5"),
    "a label above 1": (lambda: PairClassification(scored(0, 2, 1)), "row 2 has the score"),
    "a label in words": (lambda: PairClassification(scored(0, "same", 1)), "row 2 has the score 'same'"),
    "no positive pair": (lambda: PairClassification(scored(0, 0, 0)), "all 3 pairs have the label 0"),
    "no negative pair": (lambda: PairClassification(scored(1, 1, 1)), "all 3 pairs have the label 1"),
    "one positive pair": (lambda: PairClassification(scored(1, 0, 0, 0)), "one pair has the label 1"),
    "dev rows of one label": (
        lambda: PairClassification(scored(1, 0, 1), dev=[("e", "f", 1), ("g", "h", 1)]),
        r"evaluator\.dev: all 2 pairs have the label 1",
    ),
    "dev rows that are scored": (
        lambda: PairClassification(scored(1, 0, 1), dev=scored(1, 0)),
        r"evaluator\.dev: no pair is left",
    ),
    "a dev share of 0": (lambda: PairClassification(scored(1, 0, 1), dev_share=0), r"evaluator\.dev_share is 0"),
    "a dev share of 1": (lambda: PairClassification(scored(1, 0, 1), dev_share=1.0), r"evaluator\.dev_share is 1"),
    "paraphrases of themselves": (lambda: Paraphrases([("a", "a"), ("b", "b")]), "all 2 pairs .* same text twice"),
    "no neighbors": (lambda: Paraphrases(PAIRS, neighbors=0), r"evaluator\.neighbors is 0"),
    "no pairs kept": (lambda: Paraphrases(PAIRS, keep=0), r"evaluator\.keep is 0"),
    "texts without labels": (lambda: Clustering(data.Texts(["a", "b"])), "have no labels"),
    "texts of one label": (lambda: Clustering(labeled("a", "a", "a")), "have one label, 'a'"),
    "a text without its label": (lambda: Clustering(labeled("a", None, "b")), "row 2 has no label"),
    "a sample below the labels": (lambda: Clustering(LABELED, sample=2), r"evaluator\.sample is 2, .* 3 labels"),
    "no repetitions": (lambda: Clustering(LABELED, repetitions=0), r"evaluator\.repetitions is 0"),
    "one class": (lambda: Labels(labeled("a", "a", "a")), "have one label, 'a'"),
    "every label once": (lambda: Labels(labeled("a", "b", "c")), "3 rows .* have a label that occurs once"),
    "one label twice": (lambda: Labels(labeled("a", "a", "b")), "occurs once, which leaves 1 labels"),
    "a label that training has not": (
        lambda: Labels(LABELED, train=labeled("a", "b", "a", "b")),
        r"evaluator\.train: .* no row with the label 'c', which 4 rows",
    ),
    "training rows of one label": (
        lambda: Labels(LABELED, train=labeled("a", "a")),
        r"evaluator\.train: .* have one label, 'a'",
    ),
    "more neighbors than rows": (lambda: Labels(LABELED, folds=2, neighbors=7), "neighbors is 7, but .* from 6 rows"),
    "more shots than rows": (lambda: Labels(LABELED, folds=2, shots=3), "shots is 3, but only 2 training rows"),
    "one fold": (lambda: Labels(LABELED, folds=1), r"evaluator\.folds is 1"),
    "no shots": (lambda: Labels(LABELED, shots=0), r"evaluator\.shots is 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_a_model_is_loaded(case):
    make, message = REFUSED[case]
    with pytest.raises(UserError, match=message) as error:
        make()
    assert "\nfix: " in str(error.value)


class Collapsed:
    def encode(self, texts, *, batch_size=64):
        return np.ones((len(texts), 4), dtype=np.float32)


def test_a_collapsed_model_has_no_score_and_no_triplet_right():
    with pytest.raises(UserError, match="gives all 3 pairs the same similarity"):
        Similarity(scored(1, 2, 3))(Collapsed())
    with pytest.raises(UserError, match="the same similarity, 1"):
        PairClassification(scored(1, 0, 1, 0))(Collapsed())
    assert Triplets(triplets(("a", "b", "c"), ("d", "e", "f")))(Collapsed()) == {"accuracy": 0.0}
