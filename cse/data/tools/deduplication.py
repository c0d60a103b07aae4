"""Leaves out rows that repeat others, exactly or nearly, and rows with texts of evaluation sets."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cse.data.checks import EvaluationSets
from cse.data.datasets import Dataset
from cse.data.reading.numbering import Numbering, fingerprints
from cse.data.reading.texts import ByRow, distinct_key, same_text_key
from cse.data.tools.writing import check_out, names_of, records_at, write_manifest, write_rows
from cse.errors import UserError, require_package, require_within


def dedup(
    *data: Dataset, out: str | Path, near: float | None = None, against: EvaluationSets | None = None
) -> dict[str, Any]:
    """Write the rows of data sets without repetitions: of rows that count as the same, the first one stays.

    Rows are the same if their texts are, one by one, up to `same_text_key`: case, width, punctuation and white space do
    not count.

    Args:
        data: The rows, all of one class; those of an earlier data set come first.
        out: A .parquet or .jsonl file. Its manifest, a .json file of the same name, is written beside it.
        near: Also leave out near-duplicates: least Jaccard similarity of their runs of 5 characters, such as 0.8; see
            `first_of_near`. None: they stay.
        against: Evaluation sets by name: rows of one text or two. A training row with one of their texts is left out.

    Returns:
        The manifest; its `counts` has the rows that were read and written, those left out as `evaluation_text`, `same`
        and `near`, in this order, and in `against` how many rows have a text of each evaluation set.

    Raises:
        UserError: An argument is out of range, a file cannot be written, or no row is left.
    """
    target = Path(out)
    require_within("(0, 1]", "dedup", near=near)
    if near is not None:
        require_package("datasketch", extra="data", user="near-duplicates")
    check_out(target, [each.path for each in data])
    names, count = names_of(data), sum(map(len, data))
    counts: dict[str, Any] = {"read": count}
    kept, by_set = _without_texts(data, against or {})
    counts["evaluation_text"] = int((~kept).sum())
    first = _first(data, kept)
    counts["same"] = int((kept & ~first).sum())
    left = np.flatnonzero(first)
    if near is not None:
        left = left[first_of_near(_Rows(data, left), near)]
    counts["near"] = int(first.sum()) - len(left)
    counts |= {"written": len(left), "against": by_set}
    if not len(left):
        raise UserError(f"no row of {count} is left\nfix: give other rows, or fewer evaluation sets")
    write_rows(target, names, records_at(data, left))
    settings = {"near": near, "against": sorted(against or {})}
    return write_manifest(target, "cse data dedup", data, settings, counts, [target])


class _Rows(ByRow[Sequence[str]]):
    """The texts of these rows, whose numbers count over several data sets."""

    def __init__(self, data: Sequence[Dataset], rows: NDArray[np.int64]) -> None:
        self._data, self._rows = data, rows
        self._places = np.cumsum([0, *map(len, data)])

    def __len__(self) -> int:
        return len(self._rows)

    def _row(self, index: int) -> Sequence[str]:
        row = int(self._rows[index])
        place = int(np.searchsorted(self._places, row, side="right")) - 1
        return self._data[place][row - int(self._places[place])].texts


def _keys(data: Sequence[Dataset]) -> Iterator[list[list[str]]]:
    """The keys of the texts of all rows, block by block."""
    for each in data:
        for block in each.blocks():
            yield [list(map(distinct_key, row)) for row in block]


def _without_texts(data: Sequence[Dataset], sets: EvaluationSets) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """Find the rows (n,) that have no text of the evaluation sets, and count those that have one, by set."""
    wanted = {name: {same_text_key(text) for row in rows for text in row} - {""} for name, rows in sets.items()}
    every = set[str]().union(*wanted.values())
    counts = dict.fromkeys(wanted, 0)
    kept: list[bool] = []
    for block in _keys(data):
        for row in block:
            found = every.intersection(row)
            kept.append(not found)
            for name in wanted if found else ():
                counts[name] += not found.isdisjoint(wanted[name])
    return np.array(kept, dtype=bool), counts


def _first(data: Sequence[Dataset], kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Find those of the kept rows (n,) that are the first of their kind."""
    first, start = np.zeros(len(kept), dtype=bool), 0
    with TemporaryDirectory(prefix="cse-") as folder:
        numbering = Numbering(Path(folder))
        for block in _keys(data):
            rows = start + np.flatnonzero(kept[start : start + len(block)])
            found = fingerprints("\x1f".join(block[row - start]) for row in rows.tolist())
            first[rows[numbering.add(found)[1]]] = True
            start += len(block)
        numbering.close()
    return first


SHINGLE = 5  # characters
PERMUTATIONS = 128
MISSED = 0.001  # largest probability that a pair at the threshold is not found
BLOCK = 8_192  # rows that are hashed at once

Signatures = NDArray[np.uint64]


def shingles(texts: Sequence[str]) -> set[bytes]:
    """All runs of five characters of the texts of a row, up to `same_text_key`, each with the place of its text."""
    found = set()
    for place, text in enumerate(texts):
        key = distinct_key(text)
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
    """Tell which rows (n,) to keep: those whose Jaccard similarity with each earlier kept row is below the threshold.

    Rows that share a band of MinHash values are compared by their shingles, so no other row is left out. Memory: eight
    bytes per row and band, and more for rows that share a band.
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
