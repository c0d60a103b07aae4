"""Near-duplicates: rows whose texts have most of their shingles in common, found by MinHash and verified exactly."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from cse.data.same_text import same_text_key
from cse.errors import require_package

SHINGLE = 5  # characters
PERMUTATIONS = 128
MISSED = 0.001  # largest probability that a pair at the threshold is not found
BLOCK = 8_192  # rows that are hashed at once

Signatures = NDArray[np.uint64]


def shingles(texts: Sequence[str]) -> set[bytes]:
    """All runs of five characters of the texts of a row, up to `same_text_key`, each with the place of its text."""
    found = set()
    for place, text in enumerate(texts):
        key = same_text_key(text) or text
        found |= {f"{place} {key[i : i + SHINGLE]}".encode() for i in range(max(1, len(key) - SHINGLE + 1))}
    return found


def jaccard(a: set[bytes], b: set[bytes]) -> float:
    """The number of common shingles, divided by that of all: |a & b| / |a | b|."""
    return len(a & b) / len(a | b)


def band_size(threshold: float) -> int:
    """Largest r for which bands of r hashes miss a pair at the threshold t with a probability of at most `MISSED`.

    With b = PERMUTATIONS // r bands, the probability is (1 - t^r)^b.
    """
    sizes = range(1, PERMUTATIONS + 1)
    return max((r for r in sizes if (1 - threshold**r) ** (PERMUTATIONS // r) <= MISSED), default=1)


def first_of_near(rows: Sequence[Sequence[str]], threshold: float) -> NDArray[np.bool_]:
    """Which rows (n,) to keep: those without an earlier kept row whose Jaccard similarity is at least the threshold.

    Rows that share a band of MinHash values are compared by their shingles, so no other row is left out. Memory: eight
    bytes per row and band, and more for rows that share a band.

    Args:
        rows: The texts of each row.
        threshold: Least Jaccard similarity of near-duplicates, in (0, 1].

    Raises:
        UserError: datasketch is not installed.
    """
    buckets = _buckets(_bands(rows, band_size(threshold)))
    kept = np.ones(len(rows), dtype=bool)
    members = defaultdict[int, list[int]](list)  # of each bucket, the kept rows
    for row in sorted(buckets):
        own = shingles(rows[row])
        candidates = sorted({other for bucket in buckets[row] for other in members[bucket]})
        kept[row] = all(jaccard(own, shingles(rows[other])) < threshold for other in candidates)
        if kept[row]:
            for bucket in buckets[row]:
                members[bucket].append(row)
    return kept


def _bands(rows: Sequence[Sequence[str]], size: int) -> Signatures:
    """The hash of every band of every row: (b, n)."""
    minhash = require_package("datasketch", extra="data", user="near-duplicates").MinHash
    bands = PERMUTATIONS // size
    found = np.empty((bands, len(rows)), dtype=np.uint64)
    mix = np.random.default_rng(0).integers(1, 1 << 63, size=size, dtype=np.uint64) | np.uint64(1)
    texts, start = (shingles(rows[i]) for i in range(len(rows))), 0
    while block := list(islice(texts, BLOCK)):
        signatures = np.stack([m.hashvalues for m in minhash.generator(map(list, block), num_perm=PERMUTATIONS)])
        values = signatures[:, : bands * size].reshape(len(block), bands, size).astype(np.uint64)
        found[:, start : start + len(block)] = (values * mix).sum(2, dtype=np.uint64).T
        start += len(block)
    return found


def _buckets(bands: Signatures) -> dict[int, list[int]]:
    """The buckets of each row that shares one: rows with the same hash of a band."""
    buckets, named = defaultdict[int, list[int]](list), 0
    for hashes in bands:
        _, group, size = np.unique(hashes, return_inverse=True, return_counts=True)
        for row in np.flatnonzero(size[group] > 1).tolist():
            buckets[row].append(named + int(group[row]))
        named += len(size)
    return buckets
