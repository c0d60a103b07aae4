from itertools import pairwise

import numpy as np
import pytest

from cse.errors import UserError
from cse.evaluation.evaluators.pairs import fit_thresholds


def slow(similarity, positive, measure):
    """Try the middle between every two neighbors, from above."""
    values = sorted(set(similarity), reverse=True)
    best, where = -1.0, None
    for high, low in pairwise(values):
        found = measure(similarity >= (high + low) / 2, positive.astype(bool))
        if found > best:
            best, where = found, (high + low) / 2
    return where


def f1(predicted, positive):
    both = (predicted & positive).sum()
    return 2 * both / (predicted.sum() + positive.sum())


def accuracy(predicted, positive):
    return (predicted == positive).mean()


@pytest.mark.parametrize("seed", range(8))
def test_thresholds_against_every_cut(seed):
    rng = np.random.default_rng(seed)
    positive = (rng.random(60) < [0.1, 0.5, 0.9][seed % 3]).astype(float)
    positive[:2] = 0, 1
    similarity = np.round(rng.normal(size=60) + positive, 1 + seed % 2)  # with ties
    found = fit_thresholds(similarity, positive)
    assert found.f1 == pytest.approx(slow(similarity, positive, f1))
    assert found.accuracy == pytest.approx(slow(similarity, positive, accuracy))


def test_one_label_or_one_similarity_has_no_threshold():
    with pytest.raises(UserError, match=r"all 3 rows .* same label"):
        fit_thresholds(np.arange(3.0), np.ones(3))
    with pytest.raises(UserError, match=r"all 2 pairs the same similarity, 0.5"):
        fit_thresholds(np.full(2, 0.5), np.array([0.0, 1.0]))
