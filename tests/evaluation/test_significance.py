import numpy as np
import pytest
from scipy import stats

from cse.evaluation import statistic
from cse.evaluation.statistic import bootstrap, holm, interval, p_value


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


def test_a_model_does_not_differ_from_itself():
    cosine, gold = data(80)
    a, b = bootstrap("spearman", [(cosine, gold), (cosine * 3 + 1, gold)], "T", 200)
    np.testing.assert_allclose(a, b)
    assert p_value(b - a) == 1.0


def test_p_value_by_hand():
    assert p_value(np.array([1.0, 2, 3, 4, 5, 6, 7, 8, 9])) == pytest.approx(2 / 10)
    assert p_value(np.array([-1.0, 2, 3, 4, 5, 6, 7, 8, 9])) == pytest.approx(4 / 10)
    assert p_value(np.zeros(9)) == 1.0


def test_holm_by_hand():
    # Sorted: 0.01 * 4, 0.02 * 3, 0.03 * 2 -> raised to 0.06, 0.5 * 1.
    adjusted = holm({"c": 0.03, "a": 0.01, "d": 0.5, "b": 0.02})
    assert adjusted == pytest.approx({"a": 0.04, "b": 0.06, "c": 0.06, "d": 0.5})
