"""Each statistic on resamples, against scipy and scikit-learn on the rows that were drawn."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from cse.evaluation.statistic import STATISTICS

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
