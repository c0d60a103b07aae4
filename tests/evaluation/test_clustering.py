from __future__ import annotations

import random

import numpy as np
import pytest

from cse.evaluation.clustering import cluster


@pytest.mark.parametrize(("sample", "batch_size"), [(200, 512), (60, 16)])
def test_clusters_equal_mtebs(sample, batch_size):
    mteb = pytest.importorskip("mteb.abstasks.clustering")
    from sklearn.metrics import v_measure_score

    rng = np.random.default_rng(0)
    labels = rng.choice(list("abcd"), 90)
    centers = dict(zip("abcd", rng.normal(size=(4, 5)), strict=True))
    vectors = (np.stack([centers[label] for label in labels]) + rng.normal(size=(90, 5))).astype(np.float32)
    scores, _ = mteb._evaluate_clustering_bootstrapped(
        vectors,
        [[label] for label in labels],
        n_clusters=5,
        cluster_size=sample,
        kmean_batch_size=batch_size,
        max_depth=None,
        rng_state=random.Random(42),
        seed=42,
    )
    found = cluster(vectors, 4, repetitions=5, sample=sample, batch_size=batch_size)
    ours = [
        v_measure_score(np.repeat(labels, times), np.repeat(number, times))
        for number, times in zip(found.cluster.T, found.drawn.T, strict=True)
    ]
    assert ours == pytest.approx(scores["v_measure"]["Level 0"], abs=1e-6)
    assert (found.drawn.sum(0) == sample).all()
    assert ((found.cluster == -1) == (found.drawn == 0)).all()
