from itertools import pairwise

import numpy as np
import pytest

from cse.evaluation.evaluators import paraphrases
from cse.evaluation.evaluators.pairs import fit_thresholds
from cse.evaluation.evaluators.paraphrases import judge, mine_pairs
from tests.refusals import refuses


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


def test_thresholds_by_pencil():
    # 0.9 + | 0.8 - | 0.6 + | 0.1 -: F1 is 2/3, 2/4, 4/5 at the three cuts; 3, 2 and 3 of 4 are correct
    found = fit_thresholds(np.array([0.1, 0.9, 0.6, 0.8]), np.array([0.0, 1.0, 1.0, 0.0]))
    assert found.f1 == pytest.approx(0.35)
    assert found.accuracy == pytest.approx(0.85)


def test_one_label_or_one_similarity_has_no_threshold():
    refuses(r"all 3 rows .* same label", fit_thresholds, np.arange(3.0), np.ones(3))
    refuses(r"all 2 pairs the same similarity, 0.5", fit_thresholds, np.full(2, 0.5), np.array([0.0, 1.0]))


def unit(n, dim, seed):
    vectors = np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def every_pair(vectors):
    n = len(vectors)
    similarity = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    return sorted(((similarity[i, j], i * n + j) for i in range(n) for j in range(i + 1, n)), reverse=True)


def test_mined_pairs_are_the_nearest_of_all(monkeypatch):
    monkeypatch.setattr(paraphrases, "CHUNK", 7)
    vectors = unit(40, 5, 0)
    found = mine_pairs(vectors, vectors, neighbors=39, keep=10_000)
    wanted = every_pair(vectors)
    assert len(found.key) == len(wanted) == 40 * 39 // 2
    assert found.key.tolist() == [key for _, key in wanted]
    np.testing.assert_allclose(found.similarity, [s for s, _ in wanted], atol=1e-6)


def test_only_so_many_neighbors_and_pairs_are_kept(monkeypatch):
    monkeypatch.setattr(paraphrases, "CHUNK", 7)
    vectors = unit(40, 5, 1)
    similarity = vectors @ vectors.T - 2 * np.eye(40)
    near = np.argsort(-similarity, axis=1)[:, :3]
    wanted = {int(min(i, j) * 40 + max(i, j)) for i, row in enumerate(near) for j in row}
    assert set(mine_pairs(vectors, vectors, neighbors=3, keep=1000).key.tolist()) == wanted
    best = [key for _, key in every_pair(vectors) if key in wanted][:15]
    assert mine_pairs(vectors, vectors, neighbors=3, keep=15).key.tolist() == best


def test_judgement_by_pencil():
    # right, wrong, (right, wrong at one similarity), and one known pair that was not mined
    found = paraphrases.MinedPairs(np.array([1, 2, 3, 4]), np.array([0.9, 0.8, 0.5, 0.5], dtype=np.float32))
    judged = judge(found, np.array([1, 3, 99]))
    np.testing.assert_allclose(judged.precision, [1, 2 / 4, 0])
    assert judged.f1_share.mean() == pytest.approx(2 * 2 / (4 + 3))  # against 2 * 1 / (1 + 3) of the first pair alone
    assert judged.threshold == pytest.approx(0.5)
