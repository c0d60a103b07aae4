"""Miners choose the texts of a pool that become an anchor's hard negatives; the loop over rows asks them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cse.encoder.vectors import release
from cse.errors import UserError, require_at_least, require_within
from cse.mining.corpus import Corpus
from cse.mining.neighbors import EXACT, contained, cosines, open_pool
from cse.seeding import derive

Allowed = Callable[[NDArray[np.int64]], NDArray[np.bool_]]
DRAWS = 8  # random candidates per wanted negative, because some are banned or not allowed


@dataclass(frozen=True, slots=True)
class Queries:
    """M anchors whose negatives are sought; vectors have unit length."""

    anchor: NDArray[np.float32]  # (M, D)
    positive: NDArray[np.float32]  # (M, D), which margins compare with
    # (M, E) rows of the pool that are never the anchor's negative: its own text and its positives, filled up with -1
    banned: NDArray[np.int64]
    key: NDArray[np.int64]  # (M,) a number for each anchor that seeds its random draws


class Mined(NamedTuple):
    """The result of a miner."""

    rows: NDArray[np.int64]  # (M, k) rows of the pool; -1 fills the rest if fewer were found
    # number of `candidates`, and of those that each rule dropped. A candidate is counted by the first rule that drops
    # it. Candidates that remain beyond k are counted by no rule
    counts: dict[str, int]


class Miner(ABC):
    """Chooses hard negatives from a pool. All vectors have unit length, so their products are cosines."""

    @abstractmethod
    def setup(self, pool: NDArray[np.float32], device: str = "cpu") -> None:
        """Receive the pool (N, D), which may be a memory map. Called before the first queries of a search."""

    @abstractmethod
    def __call__(self, queries: Queries, k: int, allowed: Allowed | None = None) -> Mined:
        """Up to k rows of the pool for each of M anchors, the hardest first; no row that its query bans.

        `allowed` tells of candidates (M, C), rows of the pool, which may be negatives: (M, C).
        """


class TopK(Miner):
    """The hardest of the neighbors at ranks `first` to `last`, under limits of similarity.

    With s(n) the cosine of anchor and candidate, and s(p) that of anchor and positive, a candidate stays if

        s(n) <= s(p) - absolute_margin,    s(n) <= s(p) - relative_margin |s(p)|,    s(n) <= max_similarity

    Ranks are counted from 1 over the pool without the rows that the query bans, and both ends are included. SciNCL's
    hard negatives are the neighbors at ranks 3999 and 4000 in the space of a citation graph, so `first` is 3999 and
    `last` is 4000 (arXiv:2202.06671, section 3.2; the authors' program writes 3998 to 4000, counting from 0 and
    excluding the upper end). The margins are the positive-aware mining of NV-Retriever (arXiv:2407.15831, section 3:
    TopK-MarginPos and TopK-PercPos, whose 95 % of the positive is relative_margin 0.05).

    Args:
        first: The nearest rank that may be a negative. A larger value leaves out what is likely to mean the same.
        last: The farthest rank that may be a negative.
        absolute_margin: Least difference between the positive's similarity and the negative's. None: no limit.
        relative_margin: The same difference as a share of the positive's similarity. None: no limit.
        max_similarity: Largest cosine of anchor and negative. None: no limit.
        index: `exact`, or an index of faiss; see `cse.mining.neighbors.open_pool`.
    """

    def __init__(
        self,
        *,
        first: int = 1,
        last: int = 50,
        absolute_margin: float | None = None,
        relative_margin: float | None = None,
        max_similarity: float | None = None,
        index: str = EXACT,
    ) -> None:
        if not 1 <= first <= last:
            raise UserError(f"miner ranks are {first} to {last}\nfix: give 1 <= first <= last")
        require_within("[0, 2]", "miner", absolute_margin=absolute_margin, relative_margin=relative_margin)
        require_within("[-1, 1]", "miner", max_similarity=max_similarity)
        self.first, self.last, self.index = first, last, index
        self.absolute_margin, self.relative_margin = absolute_margin, relative_margin
        self.max_similarity = max_similarity

    def setup(self, pool: NDArray[np.float32], device: str = "cpu") -> None:
        """Receive the pool (N, D)."""
        self._pool, self._near = pool, open_pool(pool, self.index, device=device)

    def __call__(self, queries: Queries, k: int, allowed: Allowed | None = None) -> Mined:
        """Up to k rows of the pool for each anchor, nearest first."""
        rows, cosine = self._near.search(queries.anchor, self.last, queries.banned)  # (M, last)
        counts = {"same_text": self._banned_within(queries, cosine[:, -1])}
        rows, cosine = rows[:, self.first - 1 :], cosine[:, self.first - 1 :]
        kept = rows >= 0
        counts["candidates"] = int(kept.sum())
        for name, limit in self._limits(queries).items():
            kept = _drop(name, kept, cosine <= limit, counts)
        if allowed is not None:
            kept = _drop("teacher", kept, allowed(np.maximum(rows, 0)), counts)
        return Mined(_first(rows, kept, k), counts)

    def _limits(self, queries: Queries) -> dict[str, NDArray[np.float32]]:
        """(M, 1) the largest cosine that each rule allows."""
        own = (queries.anchor * queries.positive).sum(1, keepdims=True)
        limits = {}
        if self.absolute_margin is not None:
            limits["absolute_margin"] = own - np.float32(self.absolute_margin)
        if self.relative_margin is not None:
            limits["relative_margin"] = own - np.float32(self.relative_margin) * np.abs(own)
        if self.max_similarity is not None:
            limits["max_similarity"] = np.full_like(own, self.max_similarity)
        return limits

    def _banned_within(self, queries: Queries, farthest: NDArray[np.float32]) -> int:
        """The number of banned rows at least as near as the farthest rank (M,), which the rule of texts dropped."""
        cosine = cosines(queries.anchor, self._pool, np.maximum(queries.banned, 0))  # (M, E)
        return int(((cosine >= farthest[:, None]) & (queries.banned >= 0)).sum())


class Random(Miner):
    """Random rows of the pool: the baseline that hard negatives are compared with, and SciNCL's easy negatives.

    Args:
        seed: Seeds the draws, which depend on it and on each anchor's key alone.
        outside: Number of nearest rows of an anchor that are left out, without those that its query bans (SciNCL: 4000,
            arXiv:2202.06671, section 3.2). 0: all rows may be drawn.
        index: The index of their search; see `TopK`.
    """

    def __init__(self, *, seed: int = 0, outside: int = 0, index: str = EXACT) -> None:
        require_at_least(0, "miner", outside=outside)
        self.seed, self.outside, self.index = seed, outside, index

    def setup(self, pool: NDArray[np.float32], device: str = "cpu") -> None:
        """Receive the pool (N, D), of which only the size is used unless rows are left out."""
        self._size = len(pool)
        self._near = open_pool(pool, self.index, device=device) if self.outside else None

    def __call__(self, queries: Queries, k: int, allowed: Allowed | None = None) -> Mined:
        """Up to k different rows of the pool for each anchor."""
        draws = min(DRAWS * k + self.outside, self._size)
        rngs = (np.random.default_rng(derive(self.seed, "negatives", int(key))) for key in queries.key)
        rows = np.stack([rng.choice(self._size, draws, replace=False, shuffle=True) for rng in rngs])  # (M, draws)
        counts = {"candidates": rows.size}
        kept = _drop("same_text", np.ones_like(rows, dtype=bool), ~contained(rows, queries.banned), counts)
        if self._near is not None:
            near, _ = self._near.search(queries.anchor, self.outside, queries.banned)  # (M, outside)
            kept = _drop("near", kept, ~contained(rows, near), counts)
        if allowed is not None:
            kept = _drop("teacher", kept, allowed(rows), counts)
        return Mined(_first(rows, kept, k), counts)


def _drop(name: str, kept: NDArray[np.bool_], passes: NDArray[np.bool_], counts: dict[str, int]) -> NDArray[np.bool_]:
    """The candidates that are kept after one more rule; what it drops is counted under its name."""
    counts[name] = int((kept & ~passes).sum())
    return kept & passes


def _first(rows: NDArray[np.int64], kept: NDArray[np.bool_], k: int) -> NDArray[np.int64]:
    """(M, k) the first k kept rows of (M, C), filled up with -1."""
    order = np.argsort(~kept, axis=1, kind="stable")[:, :k]
    chosen = np.where(np.take_along_axis(kept, order, 1), np.take_along_axis(rows, order, 1), -1)
    return np.pad(chosen, ((0, 0), (0, k - chosen.shape[1])), constant_values=-1)


CHUNK = 512  # anchors that are searched at once


@dataclass(frozen=True, slots=True)
class TeacherRule:
    """A rule that drops false negatives: candidates that are too similar to the anchor for a second encoder."""

    vectors: NDArray[np.float32]  # (T, D) the unit vectors that the teacher gives to the texts of the corpus
    # candidates whose cosine with the anchor is above this are dropped. None: no limit
    max_similarity: float | None = None
    # whether to drop candidates that are at least as similar to the anchor as the positive
    below_positive: bool = False
    # (Q, D) the teacher's vectors of the anchors of the corpus, if their prompt is another one
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


@dataclass(frozen=True, slots=True)
class Bands:
    """Choose what is mined beside the hard negatives of a row of one text: SciNCL (arXiv:2202.06671, section 3.2).

    The negatives of a text, hard ones first, are dealt to its positives in turn, so that P positives make P rows: row i
    has the negatives i, i + P, ..., or if there are fewer than P, one of them.
    """

    # the first and the last rank of the neighbors that become positives, counted from 1. None: a row keeps its own
    # positive
    positives: tuple[int, int] | None = None
    easy: int = 0  # number of easy negatives of a row: random texts beyond the last rank of the miner
    seed: int = 42  # seeds the easy negatives


class Beside(NamedTuple):
    """The miners of `Bands`, set up; P is the number of rows of a text."""

    positives: TopK | None
    easy: Random | None
    easy_count: int
    width: int


def check_bands(bands: Bands, miner: Miner, compares: bool) -> None:
    """Raise unless the bands are ranks of the miner that do not overlap, and nothing compares with a positive."""
    if bands.easy < 0:
        raise UserError(f"--easy is {bands.easy}\nfix: give an integer >= 0")
    if not isinstance(miner, TopK):
        if bands.easy or bands.positives:
            raise UserError("--positives and --easy need the ranks of hard negatives\nfix: give --ranks, not --random")
        return
    if bands.positives is None:
        return
    first, last = bands.positives
    if not 1 <= first <= last:
        raise UserError(f"--positives is {first} to {last}\nfix: give ranks 1 <= FIRST <= LAST")
    if last >= miner.first:
        raise UserError(
            f"--positives ends at rank {last}, and --ranks begins at {miner.first}, so a text could be both\n"
            f"fix: begin --ranks at {last + 1} or later"
        )
    margins = miner.absolute_margin is not None or miner.relative_margin is not None
    if margins or compares:
        raise UserError(
            "--positives mines several positives of a text, and a margin, --teacher-positive or --reranker compares a "
            "negative with one\nfix: use --ranks, --max-similarity or --teacher-max"
        )


def set_up(bands: Bands, miner: Miner, pool: NDArray[np.float32], device: str = "cpu") -> Beside:
    """The miners of the bands, set up."""
    positives = easy = None
    if isinstance(miner, TopK) and bands.positives:
        positives = TopK(first=bands.positives[0], last=bands.positives[1], index=miner.index)
        positives.setup(pool, device)
    if isinstance(miner, TopK) and bands.easy:
        easy = Random(seed=bands.seed, outside=miner.last, index=miner.index)
        easy.setup(pool, device)
    width = bands.positives[1] - bands.positives[0] + 1 if bands.positives else 1
    return Beside(positives, easy, bands.easy, width)


def dealt(negatives: tuple[str, ...], i: int, rows: int) -> tuple[str, ...]:
    """The negatives of row i of the rows of a text: each goes to one row, or if there are fewer, one to each row."""
    if len(negatives) >= rows or not negatives:
        return negatives[i::rows]
    return (negatives[i % len(negatives)],)
