"""The first dimensions of a vector: which widths one may ask for, and what is kept."""

from __future__ import annotations

from collections.abc import Sequence

from cse.errors import UserError

HALVINGS = 3  # of the widths of a model that names none: down to an eighth


def halves(dim: int) -> list[int]:
    """D and its halves, down to an eighth: 256, 128, 64, 32."""
    return list(dict.fromkeys(max(1, dim >> i) for i in range(HALVINGS + 1)))


def check(dimensions: Sequence[int], dim: int | None = None, *, option: str) -> None:
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
