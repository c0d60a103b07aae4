"""Vectors that another program made, such as those of a graph, of clicks or of another model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from cse.encoder.job import is_cached, partial_files, resumable
from cse.encoder.vectors import release, require_directions, unit
from cse.errors import UserError
from cse.files import cache_dir, writing_cache
from cse.inference.shards import FIX, VectorsOnDisk, identity, open_vectors
from cse.mining.corpus import Corpus

BLOCK = 16_384  # vectors, or texts, that are read at once
OPTION = "--vectors"


@dataclass(frozen=True, slots=True)
class Vectors:
    """A file of vectors: a .npy array with a row for each row of the data, then one for each row of the pool.

    A folder of shards that `cse encode` wrote is such an array too. Rows count as the source has them, with blank and
    repeated ones. A repeated text has its first vector.
    """

    path: str | Path


def given_vectors(path: str | Path, texts: Iterable[str], corpus: Corpus) -> NDArray[np.float32]:
    """Make the unit vectors (T, D) of the texts of a corpus, as a memory-mapped array in the cache.

    The corpus has no other texts than `texts`, which are those of the rows of the file.
    """
    table, rows, rest = open_vectors(path, option=OPTION), 0, iter(texts)
    numbers = np.full(len(corpus.texts), -1, dtype=np.int64)  # the row of each text
    while block := list(islice(rest, BLOCK)):
        at = corpus.find(block)
        first = np.flatnonzero((at >= 0) & (numbers[at] < 0))[::-1]  # of two equal texts, the earlier is set last
        numbers[at[first]] = rows + first
        rows += len(block)
    if rows != len(table):
        raise UserError(
            f"--vectors {path} has {len(table):,} rows, and --data and --pool have {rows:,}\n"
            "fix: give a vector for each row of the data, then for each row of the pool, blank and repeated rows too"
        )
    digest = hashlib.sha256(f"1 {identity(path)}".encode() + numbers.tobytes()).hexdigest()
    file = cache_dir() / "vectors" / f"{digest[:32]}.npy"
    with writing_cache("vectors"):
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock"):
            if not is_cached(file):
                _copy(table, numbers, file, path)
    found: NDArray[np.float32] = np.load(file, mmap_mode="r")
    return found


def require_vectors(path: str | Path) -> None:
    """Check that a file or a folder of shards has vectors that are not quantized, before the work starts."""
    table = open_vectors(path, option=OPTION)
    if table.dtype.itemsize == 1:
        raise UserError(
            f"--vectors {path} has codes of one byte ({table.dtype}), whose cosines have no meaning\n"
            "fix: give the vectors as they are without --quantize"
        )


def _copy(table: VectorsOnDisk, numbers: NDArray[np.int64], file: Path, path: str | Path) -> None:
    """Write rows of a table, scaled to length 1, to a file."""
    with resumable(file, (len(numbers), table.shape[1]), {}) as written:
        for start in range(written.done, len(numbers), BLOCK):
            part = table[rows := numbers[start : start + BLOCK]].astype(np.float32)
            try:
                require_directions(part, lambda i: f"--vectors {path}: row {rows[i]}, counted from 0,", fix=FIX)
            except UserError:
                for leftover in partial_files(file):
                    leftover.unlink(missing_ok=True)
                raise
            written.append(unit(part))
            release(table)
        written.finish(summed=True)
