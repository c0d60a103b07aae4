"""Evaluators on rows of one's own: each score against another library's on the same rows."""

import math
import random

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn import metrics

from cse import data
from cse.evaluation import Clustering, Labels, PairClassification, Paraphrases, Retrieval, Similarity, Triplets
from cse.evaluation.statistic import bootstrap, interval
from cse.recipe import build, load
from tests.conftest import WORDS
from tests.refusals import refuses
from tests.runs import write_recipe, write_texts

RNG = random.Random(7)


def sentence():
    """Words, and one that no other sentence has, so that no two vectors are equal."""
    return " ".join([*RNG.choices(WORDS, k=RNG.randint(3, 7)), f"n{RNG.random():.9f}"])


def near(text):
    """The text with one word changed."""
    words = text.split()
    words[RNG.randrange(len(words) - 1)] = RNG.choice(WORDS)
    return " ".join(words)


PAIRS = [(a, near(a)) if i % 3 == 0 else (a, sentence()) for i, a in enumerate(sentence() for _ in range(120))]
LABELED = [(sentence() + f" {word}" * 2, word) for word in ("sun", "moon", "tree") for _ in range(40)]
NAMED = [{"text": text, "label": label} for text, label in LABELED]


@pytest.fixture
def encoder(hash_encoder):
    return hash_encoder()


def cosines(encoder, pairs):
    first, second = (encoder.encode(list(side)).astype(np.float64) for side in zip(*pairs, strict=True))
    return (first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)


def test_similarity_on_any_scale(encoder):
    gold = [RNG.choice([-3.0, 10.0, 250.5]) for _ in PAIRS]
    found = Similarity([(*pair, score) for pair, score in zip(PAIRS, gold, strict=True)])(encoder)
    similarity = cosines(encoder, PAIRS)
    assert found["spearman"] == pytest.approx(100 * spearmanr(similarity, gold)[0], abs=1e-6)
    assert found["pearson"] == pytest.approx(100 * pearsonr(similarity, gold)[0], abs=1e-6)


def test_triplets_equal_sentence_transformers(encoder):
    rows = [(a, near(a), near(a) if i % 2 else sentence()) for i, (a, _) in enumerate(PAIRS)]
    rows = [row for row in rows if row[1] != row[2]]
    anchors, positives, negatives = map(list, zip(*rows, strict=True))
    near_ones, far_ones = (cosines(encoder, zip(anchors, others, strict=True)) for others in (positives, negatives))
    right = near_ones > far_ones
    evaluator = Triplets(rows_as(rows, "premise", "entailment", "contradiction"))
    scores, (found,) = evaluator.answer(encoder)[:2]
    assert scores == evaluator(encoder) == {"accuracy": pytest.approx(100 * right.mean(), abs=1e-6)}
    assert found.n == len(rows)


def rows_as(rows, *names):
    return [dict(zip(names, row, strict=True)) for row in rows]


def test_a_triplet_is_right_if_its_positive_is_nearer_than_every_negative(encoder):
    rows = [{"a": "cat mat", "p": "cat mat dog", "n1": "sun moon", "n2": n2} for n2 in ("red blue", "cat mat")]
    (found,) = Triplets(data.Triplets(rows, columns=["a", "p", "n1", "n2"])).measure(encoder)
    assert found.arrays["right"].tolist() == [1, 0]


def test_pair_classification(encoder):
    label = [int(i % 3 == 0) for i in range(len(PAIRS))]
    rows = [(*pair, value) for pair, value in zip(PAIRS, label, strict=True)]
    scored, dev = rows[:90], rows[90:]
    found, (finding,) = PairClassification(scored, dev=dev).answer(encoder)[:2]
    similarity, dev_similarity = cosines(encoder, PAIRS[:90]), cosines(encoder, PAIRS[90:])
    assert found["ap"] == pytest.approx(100 * metrics.average_precision_score(label[:90], similarity), abs=1e-6)
    cuts = np.sort(dev_similarity)
    cuts = (cuts[1:] + cuts[:-1]) / 2
    for name, measure in (("f1", metrics.f1_score), ("accuracy", metrics.accuracy_score)):
        best = max(cuts[::-1], key=lambda cut, measure=measure: measure(label[90:], dev_similarity >= cut))
        assert finding.about[f"threshold_{name}"] == pytest.approx(best, abs=1e-6)
        assert found[name] == pytest.approx(100 * measure(label[:90], similarity >= best), abs=1e-6)


def test_a_threshold_is_never_fitted_on_rows_that_are_scored_with_it(encoder):
    rows = [(*pair, int(i % 3 == 0)) for i, pair in enumerate(PAIRS)]
    (found,) = PairClassification(rows, dev_share=0.25).measure(encoder)
    assert found.n == 120  # average precision needs no threshold
    assert len(found.arrays["predicted"]) == 90
    assert found.about["dev_rows"] == 30
    (again,) = PairClassification(rows, dev_share=0.25).measure(encoder)
    assert again.about == found.about
    (overlapping,) = PairClassification(rows[:90], dev=rows[80:]).measure(encoder)
    assert overlapping.about["left_out"] == {"dev_among_scored": 10}


def test_paraphrases_equal_sentence_transformers(encoder):
    from sentence_transformers.sentence_transformer.evaluation import ParaphraseMiningEvaluator

    pairs = [pair for i, pair in enumerate(PAIRS) if i % 3 == 0 and pair[0] != pair[1]]
    more = [sentence() for _ in range(60)]
    texts = list(dict.fromkeys([*(text for pair in pairs for text in pair), *more]))
    theirs = ParaphraseMiningEvaluator({text: text for text in texts}, pairs, write_csv=False)
    theirs.store_metrics_in_model_card_data = lambda *_: None
    wanted = theirs(AsTensors(encoder))
    found, (finding,) = Paraphrases(pairs, more=more).answer(encoder)[:2]
    assert found["ap"] == pytest.approx(100 * wanted["average_precision"], abs=1e-4)
    assert found["f1"] == pytest.approx(100 * wanted["f1"], abs=1e-4)
    assert finding.about["threshold_f1"] == pytest.approx(wanted["threshold"], abs=1e-5)
    assert finding.about["texts"] == len(texts)


class AsTensors:
    """The encoder as sentence-transformers asks it."""

    model_card_data = None

    def __init__(self, encoder):
        self.encoder = encoder

    def similarity(self, a, b):
        from sentence_transformers.util import cos_sim

        return cos_sim(a, b)

    def encode(self, texts, **_):
        import torch

        return torch.from_numpy(self.encoder.encode(texts))


def test_clustering_equals_mtebs(encoder):
    mteb = pytest.importorskip("mteb.abstasks.clustering")

    texts, labels = zip(*dict.fromkeys(LABELED), strict=True)
    wanted, _ = mteb._evaluate_clustering_bootstrapped(
        encoder.encode(texts), [[label] for label in labels], n_clusters=4, cluster_size=300, kmean_batch_size=64,
        max_depth=None, rng_state=random.Random(42), seed=42,
    )  # fmt: skip
    found = Clustering(NAMED, repetitions=4, sample=300, batch_size=64)(encoder)
    assert found["v_measure"] == pytest.approx(100 * np.mean(wanted["v_measure"]["Level 0"]), abs=1e-6)


def test_labels_with_training_rows(encoder):
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.neighbors import KNeighborsClassifier

    rows = list(NAMED)
    random.Random(0).shuffle(rows)
    train, scored = rows[:70], rows[70:]
    found = Labels(scored, train=train, neighbors=5, shots=4)(encoder)
    (x, y), (new, truth) = (
        (encoder.encode([row["text"] for row in part]).astype(np.float64), [row["label"] for row in part])
        for part in (train, scored)
    )
    probe = OneVsRestClassifier(LogisticRegression(max_iter=5000)).fit(x, y)
    assert found["probe"] == pytest.approx(100 * probe.score(new, truth), abs=1e-6)
    voters = KNeighborsClassifier(5, metric="cosine").fit(x, y)
    assert found["neighbors"] == pytest.approx(100 * voters.score(new, truth), abs=1e-6)
    assert list(found) == ["probe", "nearest_mean", "neighbors", "few_shot"]


def test_labels_without_training_rows_are_told_by_the_other_folds(encoder):
    """A text whose label occurs nowhere else cannot be told, and is counted; all others are labeled once."""
    evaluator = Labels([*NAMED, {"text": "red red", "label": "odd"}], folds=4)
    found, (finding,) = evaluator.answer(encoder)[:2]
    assert finding.n == len(dict.fromkeys(LABELED))
    assert finding.about["left_out"]["label_once"] == 1
    assert found["probe"] > 80  # the label's word is in each text, twice
    shuffled = [{**row, "label": random.Random(i).choice("abc")} for i, row in enumerate(NAMED)]
    assert Labels(shuffled, folds=4)(encoder)["probe"] < 60


MADE = {
    "similarity": lambda: Similarity([(*pair, i % 5) for i, pair in enumerate(PAIRS)]),
    "triplets": lambda: Triplets([{"premise": a, "entailment": b, "contradiction": "the sun"} for a, b in PAIRS]),
    "pair_classification": lambda: PairClassification([(*pair, i % 2) for i, pair in enumerate(PAIRS)]),
    "paraphrases": lambda: Paraphrases(PAIRS),
    "clustering": lambda: Clustering(NAMED, repetitions=1, sample=100),
    "labels": lambda: Labels(NAMED),
}


class ByDistance:
    """An encoder whose cosines say nothing: texts differ in length alone, and two words of one length are one point."""

    similarity = "euclidean"

    def encode(self, texts, *, batch_size=64):
        return np.array([[float(len(text)), 0.0] for text in texts], dtype=np.float32)


def test_a_model_that_is_compared_by_distance():
    rows = [("a", "aa", "a" * 9), ("b" * 5, "b" * 4, "b")]
    assert Triplets(rows_as(rows, "premise", "entailment", "contradiction"))(ByDistance()) == {"accuracy": 100.0}
    rows = [("a", "aa", "bb"), ("c", "c" * 3, "dd")]  # as near is not nearer
    assert Triplets(rows_as(rows, "premise", "entailment", "contradiction"))(ByDistance()) == {"accuracy": 0.0}
    rows = [("a", "aa", 3), ("a", "a" * 4, 2), ("a", "a" * 9, 1)]
    assert Similarity(rows)(ByDistance())["spearman"] == pytest.approx(100)
    rows = [("a", "aa", 1), ("b", "b" * 3, 1), ("c", "c" * 8, 0), ("d", "d" * 9, 0)]
    assert PairClassification(rows, dev_share=0.5)(ByDistance())["ap"] == pytest.approx(100)
    assert Paraphrases([("a", "a" * 2), ("b" * 7, "b" * 8)])(ByDistance())["ap"] == pytest.approx(100)
    corpus = {"far": "a" * 9, "near": "a" * 6, "next": "a" * 3}
    found = Retrieval(queries={"q": "a" * 5}, corpus=corpus, qrels={"q": ["next"]}, measures=["mrr@10"])(ByDistance())
    assert found["mrr@10"] == pytest.approx(50)


@pytest.mark.parametrize("name", MADE)
def test_every_text_is_encoded_once_and_every_score_has_an_interval(name, encoder):
    evaluator = MADE[name]()
    scores, (found,) = evaluator.answer(encoder)[:2]
    asked = [text for texts in encoder.calls for text in texts]
    assert len(asked) == len(set(asked)) > 0
    assert {text for row in evaluator.texts()["rows"] for text in row} == set(asked)
    assert scores[evaluator.primary] == found.value
    for key, measure in found.measures.items():
        arrays = [found.arrays[column] for column in measure.of]
        low, high = interval(bootstrap(measure.statistic, [arrays], key, 200)[0])
        assert low <= measure.value <= high


def test_a_recipe_names_a_file_or_a_data_set(encoder, tmp_path):
    path = tmp_path / "dev.tsv"
    rows = [f"{a}\t{b}\t{i % 5}" for i, (a, b) in enumerate(PAIRS)]
    path.write_text("\n".join(["sentence1\tsentence2\tscore", *rows]))
    data_set = {"class_path": "cse.data.ScoredPairs", "init_args": {"path": str(path), "max_score": 4.0}}
    found = []
    for given in (str(path), data_set):
        named = {"class_path": "cse.evaluation.Similarity", "init_args": {"data": given}}
        texts = {"path": str(write_texts(tmp_path))}
        recipe = load(write_recipe(tmp_path, "Texts", texts, {"backbone": "unread"}, evaluator=named))
        recipe.config.encoder = None
        evaluator = build(recipe).evaluator
        assert evaluator.name == "dev"
        found.append(evaluator(encoder))
    assert found[0] == found[1]


FEW_PAIRS = [("a cat", "a dog"), ("a mat", "the sun"), ("red moon", "blue moon"), ("one", "two"), ("x", "y")]
FEW_LABELED = [{"text": f"text {i}", "label": "abc"[i % 3]} for i in range(12)]


def scored(*scores):
    return [(*pair, score) for pair, score in zip(FEW_PAIRS, scores, strict=False)]


def triplets(*rows):
    return data.Triplets([dict(zip("apn", row, strict=True)) for row in rows], columns=["a", "p", "n"])


def labeled(*labels):
    return [{"text": f"text {i}", "label": label} for i, label in enumerate(labels)]


def similarity(*scores):
    return lambda: Similarity(scored(*scores))


def pair_classification(*labels, **options):
    return lambda: PairClassification(scored(*labels), **options)


def labels(*own, **options):
    return lambda: Labels(labeled(*own) if own else FEW_LABELED, **options)


def clustering(*own, **options):
    return lambda: Clustering(labeled(*own) if own else FEW_LABELED, **options)


SAME = triplets(("a", "b", "B."), ("c", "d", "d"))
REFUSED = {  # what is said -> the evaluator that is made
    "row 2 has the score": similarity(0.1, math.nan, 0.5),
    "row 2 has the score 'high'": similarity(0.1, "high", 0.5),
    "row 2 has the score 'inf'": similarity(0.1, math.inf, 0.5),
    "all 3 gold scores are equal": similarity(2, 2, 2),
    "it has one row": similarity(2),
    "there is no text in it": similarity(),
    "dev.tsv: there is no such file": lambda: Similarity("dev.tsv"),
    "row 1 has 2 cells": lambda: Similarity(FEW_PAIRS),
    "data is a int|data is an int": lambda: Triplets(3),
    "no triplet .* is left: 0 have no negative, and 2": lambda: Triplets(SAME),
    "row 1 has 2 cells; expected 3": lambda: Triplets(FEW_PAIRS),
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
    r"evaluator\.neighbors is 0": lambda: Paraphrases(FEW_PAIRS, neighbors=0),
    r"evaluator\.keep is 0": lambda: Paraphrases(FEW_PAIRS, keep=0),
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
