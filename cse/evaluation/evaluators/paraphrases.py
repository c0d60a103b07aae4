"""Paraphrases: are the known pairs among the most similar pairs of a list of texts?"""

from __future__ import annotations

import math
from collections.abc import Sized
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cse.data.datasets import Dataset, Pairs, Texts
from cse.encoder.vectors import unit
from cse.errors import Count, UserError
from cse.evaluation.encoding import comparison, device_of, encode_distinct, nearness
from cse.evaluation.evaluator import TEST, EvalResult, OfTexts, rows_hash, set_name
from cse.interfaces import SentenceEncoder
from cse.mining.neighbors import EXACT, open_pool

CHUNK = 1024  # texts whose neighbors are searched at once


@dataclass(eq=False, repr=False)
class Paraphrases(OfTexts):
    """Average precision x 100 of mined pairs against known ones (`ap`), and the highest F1 of any threshold (`f1`).

    A model that is compared by distance is scored by distance. The texts are those of the known pairs and of `more`,
    each once; all of their pairs are compared.

    Args:
        data: Pairs of texts that are known to be paraphrases, or what `cse.data.Pairs` reads them from; of a Hub
            id, the split `test`.
        more: Further texts to search in, or what `cse.data.Texts` reads them from. None: those of the pairs only.
        neighbors: Number of other texts that are searched for each text.
        keep: Number of the most similar pairs that are judged.

    Raises:
        UserError: The rows cannot be read, or no pair of two different texts is left.

    Source:
        `ParaphraseMiningEvaluator` of sentence-transformers, whose numbers these are.

    Deviations:
        Average precision is the mean over known pairs of the precision where each was found. Its interval draws known
        pairs, and takes what else was mined as given.
    """

    primary = "ap"

    data: Pairs | str | Path | Sized
    _: KW_ONLY
    more: Texts | str | Path | Sized | None = None
    neighbors: Count = 100
    keep: Count = 500_000

    def __post_init__(self) -> None:
        super().__post_init__()
        data, more = self.data, self.more
        self._data = data if isinstance(data, Dataset) else Pairs(data, split=TEST)
        self.name = self.name or set_name(self._data)
        others = more if isinstance(more, Dataset) or more is None else Texts(more, split=TEST)
        distinct = dict.fromkeys([*self._data.unique_texts(), *(others.unique_texts() if others else ())])
        at = {text: i for i, text in enumerate(distinct)}
        pairs = [(at[row.texts[0]], at[other]) for row in self._data for other in row.texts[1 : 1 + row.num_positives]]
        apart = np.array([pair for pair in pairs if pair[0] != pair[1]], dtype=np.int64).reshape(-1, 2)
        self._texts, self._known = list(distinct), np.unique(keys(apart[:, 0], apart[:, 1], len(distinct)))
        self._left_out = {"same_text": len(pairs) - len(apart), "repeated_pair": len(apart) - len(self._known)}
        if not len(self._known):
            raise UserError(
                f"evaluator.data: all {len(pairs)} pairs of {self._data.name} have the same text twice\n"
                "fix: give pairs of different texts"
            )

    def measure(self, encoder: SentenceEncoder) -> list[EvalResult]:
        vectors, _ = encode_distinct(encoder, self._texts, self.precision, self.prompt)
        distance = comparison(encoder) is nearness
        queries, texts = operands(vectors, distance=distance)
        mined = mine_pairs(queries, texts, self.neighbors, self.keep, str(device_of(encoder)))
        judged = judge(mined, self._known)
        threshold = -math.sqrt(max(0.0, -2 * judged.threshold)) if distance else judged.threshold
        return self.found(
            kind="paraphrases",
            unit="known pairs",
            measures={"ap": ("mean", "precision"), "f1": ("mean", "f1_share")},
            arrays={"precision": judged.precision, "f1_share": judged.f1_share},
            sha256=rows_hash([[self._data.hash, self.neighbors, self.keep], self._texts]),
            left_out=self._left_out,
            texts=len(self._texts),
            threshold_f1=threshold,
        )


@dataclass(frozen=True)
class MinedPairs:
    """Pairs i < j of n texts by their key i * n + j (m,), the most similar one first, and similarities (m,)."""

    key: NDArray[np.int64]
    similarity: NDArray[np.float32]


def keys(first: NDArray[np.int64], second: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """One number for each unordered pair of n texts."""
    return np.minimum(first, second) * n + np.maximum(first, second)


def operands(vectors: NDArray[np.floating], *, distance: bool) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Two arrays (n, D') whose dot products are the cosines of vectors (n, D), or -d^2/2 of their distances d."""
    if not distance:
        scaled = unit(vectors.astype(np.float32))
        return scaled, scaled
    # Far from 0, rounding would hide the distances.
    centered = (vectors - vectors.mean(0, dtype=np.float64)).astype(np.float32)
    half, ones = -np.square(centered).sum(1, keepdims=True) / 2, np.ones((len(vectors), 1), dtype=np.float32)
    return np.hstack([centered, ones, half]), np.hstack([centered, half, ones])


def mine_pairs(
    queries: NDArray[np.float32], vectors: NDArray[np.float32], neighbors: int, keep: int, device: str = "cpu"
) -> MinedPairs:
    """The pairs of each text with its nearest other texts, of which the most similar ones are kept.

    The dot product of `queries` (n, D) and `vectors` (n, D) is the similarity of two texts; see `operands`.
    """
    n = len(vectors)
    pool, depth = open_pool(vectors, EXACT, device=device), min(neighbors, n - 1)
    found = MinedPairs(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32))
    for start in range(0, n, CHUNK):
        own = np.arange(start, min(start + CHUNK, n))
        rows, similarity = pool.search(queries[own], depth, own[:, None])  # (CHUNK, depth)
        key = keys(np.repeat(own, depth), rows.ravel(), n)
        found = _kept(np.r_[found.key, key], np.r_[found.similarity, similarity.ravel()], keep)
    return found


def _kept(key: NDArray[np.int64], similarity: NDArray[np.float32], keep: int) -> MinedPairs:
    """Each pair once, with the similarity that was found first."""
    key, first = np.unique(key, return_index=True)
    similarity = similarity[first]
    order = np.argsort(-similarity, kind="stable")[:keep]
    return MinedPairs(key[order], similarity[order])


@dataclass(frozen=True)
class Mined:
    """Measure how well the known pairs were found."""

    # (p,) the share of known pairs among those that are at least as similar as each known pair; 0 for a known pair
    # that was not mined. Its mean is the average precision
    precision: NDArray[np.float64]
    # (p,) the part of each known pair in the highest F1 of any threshold; its mean is that F1
    f1_share: NDArray[np.float64]
    threshold: float  # the threshold, in the middle between two neighboring similarities


def judge(found: MinedPairs, known: NDArray[np.int64]) -> Mined:
    """Compare mined pairs with known ones, given as ascending keys without repeats.

    Source: `ParaphraseMiningEvaluator` of sentence-transformers.
    """
    place = np.minimum(np.searchsorted(known, found.key), len(known) - 1)
    right = known[place] == found.key
    ends = np.flatnonzero(np.r_[np.diff(found.similarity) != 0, True])  # the last pair of each similarity
    hits, extracted = np.cumsum(right)[ends], ends + 1
    at = np.searchsorted(ends, np.flatnonzero(right))  # the threshold at which each known pair was found
    precision, f1_share = np.zeros(len(known)), np.zeros(len(known))
    precision[place[right]] = (hits / extracted)[at]
    best = int(np.argmax(hits / (extracted + len(known))))
    f1_share[place[right][at <= best]] = 2 * len(known) / (extracted[best] + len(known))
    after = found.similarity[min(ends[best] + 1, len(found.key) - 1)]
    return Mined(precision, f1_share, (float(found.similarity[ends[best]]) + float(after)) / 2)
