"""Clusters of vectors, made as mteb makes them: mini-batch k-means on rows drawn with replacement, several times."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cse.errors import UserError

SEED = 42  # mteb's, of the draws and of each k-means


@dataclass(frozen=True)
class Clusters:
    """Several clusterings of n rows.

    Attributes:
        cluster: (n, R) the number of each row's cluster; -1 where the row was not drawn.
        drawn: (n, R) how often each row was drawn.
    """

    cluster: NDArray[np.int64]
    drawn: NDArray[np.int64]


def cluster(vectors: NDArray[np.floating], clusters: int, repetitions: int, sample: int, batch_size: int) -> Clusters:
    """Cluster rows that are drawn anew each time.

    Args:
        vectors: (n, D) vectors.
        clusters: Number of clusters.
        repetitions: Number of clusterings.
        sample: Number of rows that are drawn, with replacement, for each of them.
        batch_size: Number of rows in a batch of k-means.

    Raises:
        UserError: There are fewer different vectors than clusters.

    Source: `_evaluate_clustering_bootstrapped` of mteb.
    """
    from sklearn.cluster import MiniBatchKMeans

    n = len(vectors)
    if sample < clusters:
        raise UserError(f"evaluator.sample is {sample}, but there are {clusters} labels\nfix: give a larger sample")
    found = Clusters(np.full((n, repetitions), -1), np.zeros((n, repetitions), dtype=np.int64))
    model = MiniBatchKMeans(clusters, batch_size=batch_size, init="k-means++", n_init=1, random_state=SEED)
    rng = random.Random(SEED)
    for repetition in range(repetitions):
        rows = np.array(rng.choices(range(n), k=sample))
        found.cluster[rows, repetition] = model.fit_predict(vectors[rows])
        found.drawn[:, repetition] = np.bincount(rows, minlength=n)
    return found
