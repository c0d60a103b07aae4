from itertools import combinations

import numpy as np
import pytest

from cse.evaluation import geometry
from cse.evaluation.evaluators.sts_rows import Pairs
from tests.cases import cases, load
from tests.evaluation.helpers import score_pairs


def unit(n=30, d=6, seed=0):
    x = np.random.default_rng(seed).normal(size=(n, d)) + 0.5
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_spectrum_and_rank_of_known_spaces():
    axes = np.concatenate([np.eye(4), -np.eye(4)])  # variance the same along each of four directions
    np.testing.assert_allclose(geometry.spectrum(axes), np.full(4, 0.25))
    assert geometry.effective_rank(geometry.spectrum(axes)) == pytest.approx(4)
    line = np.zeros((8, 4))
    line[:, 0] = [1, -1] * 4
    assert geometry.effective_rank(geometry.spectrum(line)) == pytest.approx(1)


def test_measure_against_direct_formulas():
    x = unit()
    names = [f"t{i}" for i in range(30)]
    p = Pairs(tuple(names[:15]), tuple(names[15:]), np.r_[np.full(5, 4.5), np.arange(10) / 5])
    row = {name: i for i, name in enumerate(names)}
    found = geometry.measure(
        3 * x, row, {"T": {"s": p}}, {"T": score_pairs({"s": p}, lambda t: x[[row[i] for i in t]]).cosine}
    )
    assert found["alignment"] == pytest.approx(np.square(x[:5] - x[15:20]).sum(1).mean())
    distances = [np.square(a - b).sum() for a, b in combinations(x, 2)]
    assert found["uniformity"] == pytest.approx(np.log(np.mean(np.exp(-2 * np.array(distances)))))
    assert found["dim"] == 6
    assert found["mean_cosine"] == pytest.approx(np.mean([a @ b for a, b in combinations(x, 2)]))


def test_worst_pairs_by_hand():
    p = Pairs(("a", "b", "c"), ("x", "y", "z"), np.array([1.0, 2.0, 3.0]))
    vectors = {"a": [1, 0], "x": [1, 0], "b": [1, 0], "y": [0, 1], "c": [1, 0], "z": [-1, 0]}
    scored = score_pairs({"s": p}, lambda texts: np.array([vectors[t] for t in texts], dtype=float))
    first = geometry.worst({"s": p}, scored.cosine, scored.gold, keep=1)[0]
    # Ranks by cosine 3 2 1, by gold 1 2 3: the first pair is too similar by two ranks of three.
    gap = pytest.approx(2 / 3, abs=1e-4)
    assert first == {"sentence1": "a", "sentence2": "x", "gold": 1.0, "cosine": 1.0, "gap": gap}


@pytest.mark.parametrize("name", cases("lexical", has="partial_spearman"))
def test_traps_in_every_case_of_the_oracle(name):
    about, data = load("lexical", name)
    pairs = [Pairs(tuple(data["first"].tolist()), tuple(data["second"].tolist()), data["gold"].numpy())]
    cosine = data["cosine"].numpy()
    found = [geometry.jaccard(a, b) for a, b in zip(pairs[0].first, pairs[0].second, strict=True)]
    assert found == pytest.approx(data["jaccard"].tolist())
    found = geometry.traps(pairs, cosine)
    assert found["partial"] == pytest.approx(about["partial_spearman"])
    for kind in ("trap", "reverse"):
        wanted = about[f"{kind}_cosine"]
        assert found[kind]["n"] == about[f"{kind}_n"]
        assert found[kind]["cosine"] == (None if wanted is None else pytest.approx(wanted))
    by_quartile = geometry.overlap(pairs, cosine)
    assert [q["n"] for q in by_quartile] == about["n_by_quartile"]
    assert [q["spearman"] for q in by_quartile] == pytest.approx(about["spearman_by_quartile"])


def test_no_partial_correlation_where_gold_is_overlap():
    shared = [" ".join("abcdefgh"[:n]) for n in range(1, 9)]
    pairs = [Pairs(tuple(shared), ("a b c d e f g h",) * 8, np.arange(1, 9) / 8)]
    assert geometry.traps(pairs, np.random.default_rng(0).normal(size=8))["partial"] is None
