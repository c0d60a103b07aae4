"""Rows that are held out of training: which metric they get, what is said of them, and what is refused."""

import math
import random

import numpy as np
import pytest

from cse import Mixture, Pairs, ScoredPairs, Source, STSEvaluator, Texts, Triplets
from cse.data.reading.texts import same_text_key
from cse.evaluation import HeldOut, Labels, Several, Similarity
from cse.evaluation.evaluators.held_out import resolution
from cse.evaluation.statistic import bootstrap, interval
from tests.conftest import WORDS
from tests.refusals import refuses

RNG = random.Random(3)


def sentence(i):
    return " ".join([*RNG.choices(WORDS, k=5), f"n{i}"])


def near(text):
    return " ".join(RNG.sample(text.split(), 4))


PAIRS = [(text, near(text)) for text in map(sentence, range(200))]
SCORED = [(*pair, RNG.random()) for pair in PAIRS]
LABELED = [{"text": sentence(i), "label": "ab"[i % 2]} for i in range(200)]


def texts(data):
    return {same_text_key(text) for row in data for text in row.texts}


def keys(evaluator):
    return {same_text_key(text) for rows in evaluator.texts().values() for row in rows for text in row}


def test_pairs_are_searched_among_the_positives_of_all_held_out_rows(hash_encoder):
    evaluator, encoder = HeldOut(share=0.2), hash_encoder()
    left = evaluator.take(Pairs(PAIRS))
    assert len(left) == 160
    assert not texts(left) & keys(evaluator)
    found = evaluator(encoder)
    held = [pair for pair in PAIRS if same_text_key(pair[0]) in keys(evaluator)]
    assert len(held) == 40
    a, b = (encoder.encode(list(side)).astype(np.float64) for side in zip(*held, strict=True))
    cosine = a @ b.T / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)
    rank = 1 + (cosine > np.diag(cosine)[:, None]).sum(1)
    assert found["mrr@10"] == pytest.approx(100 * np.mean(np.where(rank <= 10, 1 / rank, 0)), abs=1e-6)
    assert evaluator.primary == "ndcg@10"
    assert found["ndcg@10"] == pytest.approx(100 * np.mean(np.where(rank <= 10, 1 / np.log2(rank + 1), 0)), abs=1e-6)


def test_scored_pairs_and_labels_have_their_metrics(hash_encoder):
    encoder = hash_encoder()
    for data, plain, primary in (
        (ScoredPairs(SCORED), Similarity, "spearman"),
        (Texts(LABELED, label_column="label"), Labels, "probe"),
    ):
        evaluator = HeldOut(share=0.25)
        left = evaluator.take(data)
        assert len(left) == 150
        assert evaluator.primary == primary
        kept = {row.row_id for row in left}
        held = [i for i in range(200) if i not in kept]
        rows = [(SCORED if plain is Similarity else LABELED)[i] for i in held]
        assert evaluator(encoder) == pytest.approx(plain(rows)(encoder))


def test_the_difference_that_can_be_shown_is_that_of_independent_scores(hash_encoder, caplog):
    evaluator = HeldOut(share=0.5)
    evaluator.take(Pairs(PAIRS))
    with caplog.at_level("INFO", logger="cse"):
        (found,) = evaluator.measure(hash_encoder())
        evaluator(hash_encoder("other"))
    low, high = interval(bootstrap("mean", [[found.arrays[found.measures[found.primary].of[0]]]], found.name)[0])
    shown = math.sqrt(2) * (high - low) / 2
    assert resolution(found) == pytest.approx(shown)
    said = [record.getMessage() for record in caplog.records if "told apart" in record.getMessage()]
    assert said == [f"held out   two encoders that differ by {shown:.1f} or more are told apart"]  # by the first


def test_it_says_how_many_rows_it_holds_out():
    evaluator = HeldOut(share=0.1)
    rows = [{"a": a, "p": p, "n": PAIRS[i - 1][1]} for i, (a, p) in enumerate(PAIRS)]
    rows += [{"a": "one anchor", "p": f"p {i}", "n": f"n {i}"} for i in range(100)]
    left = evaluator.take(Triplets(rows, columns=["a", "p", "n"]))
    removed = left.report["negatives_held_out"]
    assert evaluator.describe() == (
        "30 of 300 rows held out (10.0%): retrieval; 100 rows share too many texts to be; "
        f"{removed} hard negatives removed"
    )


def test_a_mixture_holds_rows_of_each_source_out(hash_encoder):
    sources = {
        "plain": Source(Texts([text for pair in PAIRS[:50] for text in pair])),
        "qa": Source(Pairs(PAIRS), weight=2),
        "graded": Source(ScoredPairs([(sentence(i), sentence(i + 1), RNG.random()) for i in range(500, 600)])),
    }
    evaluator = HeldOut(share=0.1, source="graded")
    left = evaluator.take(Mixture(sources, schedule="weights"))
    assert isinstance(left, Mixture)
    assert (left.schedule, left.sources["qa"].weight) == ("weights", 2)
    assert [len(source.data) for source in left.sources.values()] == [100, 180, 90]
    assert not texts(left) & keys(evaluator)
    found = evaluator(hash_encoder())
    assert evaluator.primary == "graded/spearman"
    assert {name.partition("/")[0] for name in found} == {"qa", "graded"}


def test_it_is_one_of_several(hash_encoder):
    evaluator = Several({"general": STSEvaluator(), "own": HeldOut(share=0.2)}, primary="own")
    left = evaluator.take(Pairs(PAIRS))
    assert len(left) == 160
    assert evaluator(hash_encoder())[evaluator.primary] > 0
    assert evaluator.describe().startswith("40 of 200 rows held out")
    assert keys(evaluator.evaluators["own"]) <= keys(evaluator)


LONE = [{"text": f"text {i}", "label": "ab"[i == 0]} for i in range(20)]
REFUSED = {
    "a share of 0": (lambda: HeldOut(share=0), r"evaluator\.share is 0"),
    "a share of 1": (lambda: HeldOut(share=1), r"evaluator\.share is 1"),
    "a share that is nan": (lambda: HeldOut(share=math.nan), r"evaluator\.share is nan"),
    "room for one row": (lambda: HeldOut(max_rows=1), r"evaluator\.max_rows is 1"),
    "no rows yet": (lambda: HeldOut()(None), "HeldOut has no rows"),
    "plain texts": (lambda: HeldOut().take(Texts(["a", "b", "c"])), "texts without .* have no metric of their own"),
    "a list": (lambda: HeldOut().take([1, 2]), "data is of type list"),
    "no row held out": (lambda: HeldOut(share=0.01).take(Pairs(PAIRS[:20])), "0.01, which holds no row out\n"),
    "every row linked": (lambda: HeldOut(share=0.1).take(Pairs([("a", str(i)) for i in range(50)])), "50 rows share"),
    "no row left": (lambda: HeldOut(share=0.99).take(Pairs(PAIRS[:20])), "leaves 0 rows to train on"),
    "another source": (
        lambda: HeldOut(source="qa").take(Mixture({"nli": Source(Pairs(PAIRS))})),
        r"(?s)evaluator\.source is 'qa', .* name one of nli",
    ),
    "one label held out": (lambda: HeldOut(share=0.1).take(Texts(LONE, label_column="label")), "labels? "),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    make, message = REFUSED[case]
    refuses(message, make)
