"""Arrays of vectors: rows of length 1, rows that point somewhere, their first dimensions, and pages let go."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cse.errors import UserError

F = TypeVar("F", bound=np.floating[Any])
HALVINGS = 3  # of the widths of a model that names none: down to an eighth


def unit(vectors: NDArray[F]) -> NDArray[F]:
    """The rows (n, D) scaled to length 1; a row of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, np.finfo(vectors.dtype).tiny)


def require_directions(
    vectors: NDArray[np.floating[Any]],
    name: Callable[[int], str],
    *,
    null: Callable[[int], bool] = lambda _: False,
    fix: str = "copy or train the model again: its weights or settings are damaged",
) -> None:
    """Check that each vector (n, D) is finite and points somewhere, where vectors are made or read.

    `name` names a row by its number, and `null` says whether its vector may be 0.
    """
    largest = np.abs(vectors).max(1, initial=0)  # (n,) nan if one is
    zero = [int(row) for row in np.flatnonzero(largest == 0)]
    wrong = [*map(int, np.flatnonzero(~np.isfinite(largest))), *(row for row in zero if not null(row))]
    if wrong:
        row = min(wrong)
        what = "the vector 0, which is near to nothing" if largest[row] == 0 else "a vector with nan or infinity"
        raise UserError(f"{name(row)} has {what}\nfix: {fix}")


def release(vectors: Any) -> None:
    """Let go of the pages of a memory-mapped array that were read; they stay in the system's cache of files.

    Without it, an array on disk that is read once is counted as memory of this process, as large as it is.
    """
    for part in getattr(vectors, "parts", [vectors]):  # of several files, those of each
        mapped = getattr(part, "_mmap", None)
        if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
            mapped.madvise(mmap.MADV_DONTNEED)


def halves(dim: int) -> list[int]:
    """D and its halves, down to an eighth: 256, 128, 64, 32."""
    return list(dict.fromkeys(max(1, dim >> i) for i in range(HALVINGS + 1)))


def check_widths(dimensions: Sequence[int], dim: int | None = None, *, option: str) -> None:
    """Raise unless these are widths of a vector of `dim` numbers, integers from 1 to D, each given once by `option`."""
    most = "integers of 1 or more" if dim is None else f"integers from 1 to {dim}"
    if not dimensions:
        raise UserError(f"{option} names no width\nfix: give {most}")
    for width in dimensions:
        if isinstance(width, bool) or not isinstance(width, int) or width < 1:
            raise UserError(f"{option} has {width!r}, which is not a width\nfix: give {most}")
        if dim is not None and width > dim:
            raise UserError(f"{option} has {width}, but the vectors have {dim} dimensions\nfix: give {most}")
        if list(dimensions).count(width) > 1:
            raise UserError(f"{option} has {width} twice\nfix: give each number once")
