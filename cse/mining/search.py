"""The search for negatives: the loop over rows, and a teacher's rule for candidates."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cse.encoder.vectors import release
from cse.mining.corpus import Corpus
from cse.mining.miners import Allowed, Mined, Miner, Queries
from cse.mining.neighbors import cosines

CHUNK = 512  # anchors that are searched at once


@dataclass(frozen=True, slots=True)
class TeacherRule:
    """A rule that drops false negatives: candidates that are too similar to the anchor for a second encoder.

    Attributes:
        vectors: (T, D) the unit vectors that the teacher gives to the texts of the corpus.
        max_similarity: Candidates whose cosine with the anchor is above this are dropped. None: no limit.
        below_positive: Whether to drop candidates that are at least as similar to the anchor as the positive.
        anchors: (Q, D) the teacher's vectors of the anchors of the corpus, if their prompt is another one.
    """

    vectors: NDArray[np.float32]
    max_similarity: float | None = None
    below_positive: bool = False
    anchors: NDArray[np.float32] | None = None

    def of(self, corpus: Corpus, rows: slice) -> Allowed:
        """The rule for candidates of these rows."""
        anchor = corpus.queries(rows, self.vectors, self.anchors)  # (M, D)
        own = (anchor * self.vectors[corpus.positive[rows]]).sum(1, keepdims=True)

        def allowed(candidates: NDArray[np.int64]) -> NDArray[np.bool_]:
            cosine = cosines(anchor, self.vectors, candidates)
            passes = np.ones_like(cosine, dtype=bool)
            if self.max_similarity is not None:
                passes &= cosine <= self.max_similarity
            if self.below_positive:
                passes &= cosine < own
            return passes

        return allowed


def mine(
    miner: Miner,
    corpus: Corpus,
    vectors: NDArray[np.float32],
    k: int,
    rows: range,
    teacher: TeacherRule | None = None,
    anchors: NDArray[np.float32] | None = None,
) -> Mined:
    """Mine up to k negatives for each of a contiguous range of rows, as rows of the pool; `CHUNK` rows at a time.

    The miner is set up with `vectors[: corpus.size]`. `anchors` (Q, D) are unit vectors of `corpus.anchor_texts`, if
    their prompt is not that of the texts' unit vectors (T, D).
    """
    chosen, counts = np.empty((len(rows), k), dtype=np.int64), Counter[str]()
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        place = slice(part.start, part.stop)
        queries = Queries(
            anchor=corpus.queries(place, vectors, anchors),
            positive=vectors[corpus.positive[place]],
            banned=corpus.banned(part),
            key=np.arange(part.start, part.stop),
        )
        found = miner(queries, k, teacher.of(corpus, place) if teacher else None)
        chosen[start : start + len(part)] = found.rows
        counts.update(found.counts)
        for read in (vectors, *((teacher.vectors,) if teacher else ())):
            release(read)
    return Mined(chosen, dict(counts))
