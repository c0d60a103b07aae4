"""A cross-encoder judges mined candidates: it reads anchor and candidate together, which is slow and more accurate."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cse.assets.hub import snapshot
from cse.encoder.checkpoint.identity import model_hash
from cse.encoder.device import Device, choose
from cse.errors import UserError
from cse.mining.corpus import Corpus
from cse.teachers.cross_encoder import load_cross_encoder

FIX = "give a folder or Hub id of a cross-encoder with one score for a pair of texts"
BATCH = 32  # pairs that the model reads at once


class Judged(NamedTuple):
    """Hold what a reranker leaves."""

    rows: NDArray[np.int64]  # (M, k) rows of the pool in the order of the candidates; -1 fills the rest
    scores: NDArray[np.float64]  # (M, k) their scores; NaN fills the rest
    positive: NDArray[np.float64]  # (M,) the scores of the positives
    # number of candidates that were scored (`reranked`) and of those that were dropped (`reranker`)
    counts: dict[str, int]


class Reranker:
    """A cross-encoder of sentence-transformers that drops likely false negatives.

    With r the model's score, as its own activation gives it, a candidate n of anchor a with positive p stays if

        r(a, n) <= r(a, p) - margin

    Candidates are scored in their order, and no more of them than needed to find k.

    Args:
        checkpoint: A folder or Hub id of a model with one score.
        margin: Least difference between the scores of the positive and of a negative.
        device: The device to run on; see `cse.encoder.device`.

    Raises:
        UserError: The model cannot be loaded, or gives no single score.
    """

    def __init__(self, checkpoint: str, *, margin: float = 0.0, device: Device = "auto") -> None:
        if not np.isfinite(margin):
            raise UserError(f"--reranker-margin is {margin}\nfix: give a finite number")
        self.checkpoint, self.margin = checkpoint, margin
        local = Path(checkpoint).expanduser()
        folder = local if local.exists() else snapshot(checkpoint, what=f"--reranker {checkpoint}")
        self._model = _load(checkpoint, folder).to(choose(device))
        self.about = {"checkpoint": checkpoint, "sha256": model_hash(folder), "margin": margin}

    def choose(self, corpus: Corpus, rows: range, candidates: NDArray[np.int64], k: int) -> Judged:
        """Up to k of the candidates (M, C) for each of M rows; -1 ends a row of candidates."""
        anchors = [corpus.texts[i] for i in corpus.anchor[rows.start : rows.stop]]
        positives = [corpus.texts[i] for i in corpus.positive[rows.start : rows.stop]]
        positive = self._scores(list(zip(anchors, positives, strict=True)))  # (M,)
        chosen = np.full((len(rows), k), -1, dtype=np.int64)
        scores = np.full((len(rows), k), np.nan)
        filled, place = np.zeros(len(rows), dtype=np.int64), np.zeros(len(rows), dtype=np.int64)
        end = (candidates >= 0).sum(1)
        counts = {"reranked": 0, "reranker": 0}
        while True:
            last = np.minimum(place + k - filled, end)
            wanted = [(i, j) for i in range(len(rows)) for j in range(place[i], last[i])]
            if not wanted:
                return Judged(chosen, scores, positive, counts)
            pairs = [(anchors[i], corpus.texts[candidates[i, j]]) for i, j in wanted]
            for (i, j), score in zip(wanted, self._scores(pairs).tolist(), strict=True):
                passes = score <= positive[i] - self.margin
                if passes:
                    chosen[i, filled[i]], scores[i, filled[i]] = candidates[i, j], score
                    filled[i] += 1
                counts["reranker"] += not passes
            counts["reranked"] += len(wanted)
            place = np.maximum(place, last)

    def _scores(self, pairs: list[tuple[str, str]]) -> NDArray[np.float64]:
        """The score (n,) of each pair of texts."""
        found: NDArray[np.float64] = np.asarray(
            self._model.predict(pairs, batch_size=BATCH, show_progress_bar=False), dtype=np.float64
        )
        return found


def _load(checkpoint: str, folder: Path) -> Any:
    """Load the model of a folder, which must have a trained head and one score."""
    model = load_cross_encoder(checkpoint, folder, option="--reranker", fix=FIX)
    if model.num_labels != 1:
        raise UserError(f"--reranker {checkpoint} has {model.num_labels} scores for a pair\nfix: {FIX}")
    return model
