"""Clustering: do clusters of the vectors agree with the labels of the texts?"""

from __future__ import annotations

import random
from collections.abc import Sized
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cse.data.datasets import Texts
from cse.errors import UserError, require_at_least
from cse.evaluation.encoding import encode_distinct
from cse.evaluation.finding import Finding, Measuring, rows_hash
from cse.evaluation.row_sets import described, labeled_texts, set_name
from cse.interfaces import SentenceEncoder

SEED = 42  # mteb's, of the draws and of each k-means


class Clustering(Measuring):
    """V-measure x 100 of clusters with labels: the mean over several clusterings by mini-batch k-means.

    Args:
        data: Texts with labels, or what `cse.data.Texts` reads them from: its column `label` then has the labels. Of a
            Hub id, the split `test`.
        repetitions: Number of clusterings.
        sample: Number of rows that each of them draws, with replacement.
        batch_size: Number of rows in a batch of k-means.
        precision: fp32, bf16, or auto: bf16 where native.
        prompt: The name of the encoder's prompt that is put before all texts; None: the encoder's default prompt.
        name: The name of the rows in results. None: that of their file.

    Raises:
        UserError: The rows cannot be read, have fewer than two labels, or are fewer than the labels in a sample.

    Source:
        mteb's clustering tasks (`AbsTaskClustering`), on all rows.
    """

    primary = "v_measure"

    def __init__(
        self,
        data: Texts | str | Path | Sized,
        *,
        repetitions: int = 10,
        sample: int = 16_384,
        batch_size: int = 512,
        precision: str = "auto",
        prompt: str | None = None,
        name: str | None = None,
    ) -> None:
        require_at_least(1, "evaluator", repetitions=repetitions, sample=sample, batch_size=batch_size)
        self.data, self.repetitions, self.sample, self.batch_size = data, repetitions, sample, batch_size
        self.precision, self.prompt = precision, prompt
        self._data, self._texts, labels = labeled_texts(data, "data")
        self.name = name or set_name(self._data)
        self._classes, self._label = np.unique(labels, return_inverse=True)
        if sample < len(self._classes):
            raise UserError(
                f"evaluator.sample is {sample}, but the rows have {len(self._classes)} labels\n"
                f"fix: give {len(self._classes)} or more"
            )

    def measure(self, encoder: SentenceEncoder) -> list[Finding]:
        """Score an encoder, with the cluster of each text in each clustering."""
        vectors, row = encode_distinct(encoder, self._texts, self.precision, self.prompt)
        ordered = vectors[[row[text] for text in self._texts]]  # (n, D)
        made = cluster(ordered, len(self._classes), self.repetitions, self.sample, self.batch_size)
        found = Finding.of(
            self.name,
            kind="clustering",
            measures={"v_measure": ("v_measure", "cluster", "label", "drawn")},
            arrays={"cluster": made.cluster, "label": self._label, "drawn": made.drawn},
            primary=self.primary,
            unit="texts",
            sha256=rows_hash([[self._data.hash, self.repetitions, self.sample, self.batch_size]]),
            where=self._data.name,
            about=described(self._data, labels=len(self._classes)),
        )
        return [found]


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
    """Cluster rows of which each repetition draws others.

    Args:
        vectors: (n, D) vectors.
        clusters: Number of clusters.
        repetitions: Number of clusterings.
        sample: Number of rows that are drawn, with replacement, for each of them.
        batch_size: Number of rows in a batch of k-means.

    Source: `_evaluate_clustering_bootstrapped` of mteb.
    """
    from sklearn.cluster import MiniBatchKMeans

    n = len(vectors)
    found = Clusters(np.full((n, repetitions), -1), np.zeros((n, repetitions), dtype=np.int64))
    model = MiniBatchKMeans(clusters, batch_size=batch_size, init="k-means++", n_init=1, random_state=SEED)
    rng = random.Random(SEED)
    for repetition in range(repetitions):
        rows = np.array(rng.choices(range(n), k=sample))
        found.cluster[rows, repetition] = model.fit_predict(vectors[rows])
        found.drawn[:, repetition] = np.bincount(rows, minlength=n)
    return found
