"""Each statistic on resamples, against scipy and scikit-learn on the rows that were drawn."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from cse.evaluation import statistic
from cse.evaluation.statistic import STATISTICS, bootstrap, holm, interval, p_value

RNG = np.random.default_rng(4)
N = 40
SCORE = np.round(RNG.normal(size=N), 1)  # with ties
GOLD = RNG.integers(0, 6, size=N) / 1.0
LABEL = RNG.integers(0, 2, size=N) / 1.0
PREDICTED = RNG.integers(0, 2, size=N) / 1.0
CLUSTER, CLASS = RNG.integers(0, 4, size=(N, 3)) / 1.0, RNG.integers(0, 3, size=N) / 1.0
TIMES = RNG.integers(0, 3, size=(N, 3)) / 1.0  # how often a clustering drew each unit
COUNTS = np.stack([np.ones(N), *(np.bincount(RNG.integers(0, N, N), minlength=N) for _ in range(20))]).astype(float)

CASES = {
    "mean": ((SCORE,), np.mean),
    "spearman": ((SCORE, GOLD), lambda x, y: stats.spearmanr(x, y)[0]),
    "pearson": ((SCORE, GOLD), lambda x, y: stats.pearsonr(x, y)[0]),
    "average_precision": ((SCORE, LABEL), lambda x, y: metrics.average_precision_score(y, x)),
    "f1": ((PREDICTED, LABEL), lambda x, y: metrics.f1_score(y, x)),
    "v_measure": (
        (CLUSTER, CLASS, TIMES),
        lambda x, y, times: np.mean([_v(x[:, r], times[:, r], y) for r in range(3)]),
    ),
}


def _v(cluster, times, label):
    drawn = np.repeat(np.arange(len(label)), times.astype(int))
    return metrics.v_measure_score(label[drawn], cluster[drawn])


def test_every_statistic_has_a_case():
    assert set(CASES) == set(STATISTICS)


@pytest.mark.parametrize("name", CASES)
def test_equals_the_library_on_every_resample(name):
    arrays, slow = CASES[name]
    other = (arrays[0][::-1].copy(), *arrays[1:])
    found = STATISTICS[name]([arrays, other])(COUNTS)
    assert found.shape == (2, len(COUNTS))
    for model, row in zip((arrays, other), found, strict=True):
        for counts, value in zip(COUNTS.astype(int), row, strict=True):
            drawn = np.repeat(np.arange(N), counts)
            assert value == pytest.approx(100 * slow(*(column[drawn] for column in model)), abs=1e-9)


def test_one_cluster_and_one_class_agree():
    ones, once = np.ones((5, 1)), np.ones((5, 1))
    assert STATISTICS["v_measure"]([(ones, ones[:, 0], once)])(np.ones((1, 5)))[0, 0] == 100
    assert STATISTICS["v_measure"]([(ones, np.arange(5.0), once)])(np.ones((1, 5)))[0, 0] == 0


def data(n, seed=0, noise=1.0):
    rng = np.random.default_rng(seed)
    gold = rng.integers(0, 11, size=n) / 2
    return np.round(gold + noise * rng.normal(size=n), 1), gold


def test_chunks_do_not_matter(monkeypatch):
    cosine, gold = data(50)
    whole = bootstrap("spearman", [(cosine, gold)], "T", 101)
    monkeypatch.setattr(statistic, "CELLS", 50 * 7)
    chunked = bootstrap("spearman", [(cosine, gold)], "T", 101)
    assert whole.shape == chunked.shape == (1, 101)
    # The draws of numpy's generator do not depend on how many are asked for at once.
    np.testing.assert_allclose(whole, chunked)


def test_interval_is_about_fishers():
    # For normal data of correlation r, arctanh of Spearman has a standard error of about sqrt((1 + r^2 / 2) / (n - 3)).
    rng = np.random.default_rng(3)
    n, r = 1500, 0.7
    x = rng.normal(size=n)
    y = r * x + np.sqrt(1 - r * r) * rng.normal(size=n)
    low, high = interval(bootstrap("spearman", [(x, y)], "T")[0])
    rho = stats.spearmanr(x, y)[0]
    spread = 1.96 * np.sqrt((1 + rho**2 / 2) / (n - 3))
    assert low == pytest.approx(100 * np.tanh(np.arctanh(rho) - spread), abs=0.6)
    assert high == pytest.approx(100 * np.tanh(np.arctanh(rho) + spread), abs=0.6)


def test_p_value_by_hand():
    assert p_value(np.array([1.0, 2, 3, 4, 5, 6, 7, 8, 9])) == pytest.approx(2 / 10)
    assert p_value(np.array([-1.0, 2, 3, 4, 5, 6, 7, 8, 9])) == pytest.approx(4 / 10)
    assert p_value(np.zeros(9)) == 1.0


def test_holm_by_hand():
    # Sorted: 0.01 * 4, 0.02 * 3, 0.03 * 2 -> raised to 0.06, 0.5 * 1.
    adjusted = holm({"c": 0.03, "a": 0.01, "d": 0.5, "b": 0.02})
    assert adjusted == pytest.approx({"a": 0.04, "b": 0.06, "c": 0.06, "d": 0.5})
