"""Vectors that another program made, such as those of a graph, of clicks or of another model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cse.encoder.vectors import release, unit
from cse.errors import UserError

BLOCK = 16_384  # vectors that are read at once
FIX = "give a .npy file with an array (n, D) of numbers, such as cse encode writes"


@dataclass(frozen=True, slots=True)
class Vectors:
    """A file of vectors: a .npy array with a row for each row of the data, then one for each row of the pool.

    Rows count as the source has them, with blank and repeated ones. A repeated text has its first vector.
    """

    path: str | Path


def given_vectors(path: str | Path, texts: Iterable[str], wanted: Sequence[str]) -> NDArray[np.float32]:
    """The unit vectors (T, D) of the wanted texts.

    Args:
        path: The file.
        texts: The texts of its rows.
        wanted: T of these texts.

    Raises:
        UserError: The file cannot be read, has another number of rows than there are texts, or a value is not finite.
    """
    table, rows, place = open_vectors(path), 0, dict[str, int]()
    for rows, text in enumerate(texts, 1):
        place.setdefault(text, rows - 1)
    if rows != len(table):
        raise UserError(
            f"--vectors {path} has {len(table):,} rows, and --data and --pool have {rows:,}\n"
            "fix: give a vector for each row of the data, then for each row of the pool, blank and repeated rows too"
        )
    numbers = np.array([place[text] for text in wanted], dtype=np.int64)
    found = np.empty((len(wanted), table.shape[1]), dtype=np.float32)
    for start in range(0, len(wanted), BLOCK):
        part = table[numbers[start : start + BLOCK]].astype(np.float32)
        finite = np.isfinite(part).all(1)
        if not finite.all():
            row = int(numbers[start + int(finite.argmin())])
            raise UserError(f"--vectors {path}: row {row}, counted from 0, has a value that is not finite\nfix: {FIX}")
        found[start : start + BLOCK] = unit(part)
        release(table)
    return found


def open_vectors(path: str | Path) -> NDArray[np.generic]:
    """The array (n, D) of a file, memory-mapped.

    Raises:
        UserError: The file cannot be read, or has something else.
    """
    try:
        table = np.load(Path(path).expanduser(), mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = (str(error).strip() or "it is empty").splitlines()[0][:160]
        raise UserError(f"--vectors {path} cannot be read: {reason}\nfix: {FIX}") from error
    if not isinstance(table, np.ndarray) or table.ndim != 2 or table.dtype.kind not in "fiu" or not table.size:
        what = f"an array {table.shape} of {table.dtype}" if isinstance(table, np.ndarray) else "several arrays"
        raise UserError(f"--vectors {path} has {what}\nfix: {FIX}")
    return table
