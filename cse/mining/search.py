"""The search for negatives: the texts, the texts that must not be negatives of a row, and the loop over rows."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cse.batch import Example
from cse.data.same_text import same_text_key
from cse.encoder.vectors import release
from cse.errors import UserError
from cse.mining.miners import Allowed, Mined, Miner, Queries
from cse.mining.neighbors import cosines

CHUNK = 512  # anchors that are searched at once


def _text_key(text: str) -> str:
    return same_text_key(text) or text  # texts of punctuation alone have an empty key, and still differ


class Corpus:
    """The texts of rows and of a pool, without repeats.

    A text of the pool cannot be a negative of a row if it is the same text as the row's anchor, a positive of any
    row with the same anchor, or a negative that the row has already.

    Args:
        data: The M rows. A single text is its own positive, by dropout or augmentation.
        pool: Texts that may become negatives. None: the texts after the anchor of each row, and single texts.

    Attributes:
        texts: T texts. The pool comes first, and no two texts of it have the same `same_text_key`.
        size: The number N of texts in the pool.
        anchor: (M,) the index in `texts` of the anchor of each row.
        positive: (M,) the index in `texts` of the first positive of each row.
        anchor_texts: The Q distinct anchors.

    Raises:
        UserError: The pool has fewer than two texts.
    """

    def __init__(self, data: Sequence[Example], pool: Iterable[str] | None = None) -> None:
        rows = [example.texts * 2 if len(example.texts) == 1 else example.texts for example in data]
        self._pool_row: dict[str, int] = {}
        self.texts: list[str] = []
        for text in (text for row in rows for text in row[1:]) if pool is None else pool:
            if text.strip() and self._pool_row.setdefault(_text_key(text), len(self.texts)) == len(self.texts):
                self.texts.append(text)
        self.size = len(self.texts)
        if self.size < 2:
            raise UserError(
                f"the pool has {self.size} different texts, and mining needs 2 or more\n"
                "fix: give a larger --pool or --data"
            )
        at = {text: row for row, text in enumerate(self.texts)}
        self.anchor = np.array([self._place(row[0], at) for row in rows], dtype=np.int64)
        self.positive = np.array([self._place(row[1], at) for row in rows], dtype=np.int64)
        distinct, self._query = np.unique(self.anchor, return_inverse=True)
        self.anchor_texts = [self.texts[i] for i in distinct]
        self._positives: dict[str, set[int]] = {}
        self._key: list[str] = []
        self._own: list[tuple[int, ...]] = []
        for example, row in zip(data, rows, strict=True):
            self._remember(row, example.num_positives)

    def _place(self, text: str, at: dict[str, int]) -> int:
        """The index of a text, which is appended if it is new."""
        if at.setdefault(text, len(self.texts)) == len(self.texts):
            self.texts.append(text)
        return at[text]

    def _remember(self, row: tuple[str, ...], positives: int) -> None:
        """Remember the places in the pool of the texts of a row."""
        found = [self._pool_row.get(_text_key(text), -1) for text in row]
        self._key.append(_text_key(row[0]))
        self._positives.setdefault(self._key[-1], set()).update(found[: 1 + positives])
        self._own.append(tuple(found[1 + positives :]))

    def sha256(self) -> str:
        """A hash of all texts."""
        digest = hashlib.sha256(f"{self.size}".encode())
        for text in self.texts:
            digest.update(text.encode() + b"\x1e")
        return digest.hexdigest()

    def queries(
        self, rows: slice, vectors: NDArray[np.float32], anchors: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        """(M', D) the vectors of these rows' anchors: rows of `anchors` (Q, D), or of `vectors` (T, D) without any."""
        return vectors[self.anchor[rows]] if anchors is None else anchors[self._query[rows]]

    def banned(self, rows: range) -> NDArray[np.int64]:
        """The rows (len(rows), E) of the pool that must not be negatives of these rows, filled up with -1."""
        lists = [sorted({*self._positives[self._key[row]], *self._own[row]} - {-1}) for row in rows]
        width = max(map(len, lists), default=0)
        return np.array([each + [-1] * (width - len(each)) for each in lists], dtype=np.int64).reshape(len(rows), width)


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
    """Up to k negatives for each of these rows, as rows of the pool; `CHUNK` rows are searched at a time.

    Args:
        miner: The miner, set up with `vectors[: corpus.size]`.
        corpus: The texts.
        vectors: (T, D) unit vectors of the texts, which may be on disk.
        k: Number of negatives per row.
        rows: A contiguous range of rows to mine for.
        teacher: A rule that drops false negatives.
        anchors: (Q, D) unit vectors of `corpus.anchor_texts`, if their prompt is not that of `vectors`.
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
