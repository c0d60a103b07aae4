"""Rows of a matrix that is never whole, so that a loss takes memory linear in the batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cse import distributed

T = TypeVar("T")

BLOCK_BYTES = 2**25  # of a block of similarities; the loss holds about ten such blocks at a time
WHOLE_BYTES = 2**32  # of a matrix that an objective needs whole: 32,768 x 32,768 similarities


def fits(rows: int, columns: int, like: Tensor) -> bool:
    """Whether a matrix (rows, columns) is small enough to be computed whole."""
    return rows * _row_bytes(columns, like) <= BLOCK_BYTES


def by_rows(loss: Callable[..., T], sides: tuple[Tensor, ...], columns: int) -> T:
    """What `loss` makes of the rows of `sides`, joined.

    If the matrix (n, columns) fits into a block, `loss` sees all rows at once. Otherwise it sees a block of rows at a
    time, once in the forward pass and once more in the backward pass, and every process takes its share of the rows:
    all processes must call this with the same sides. The first dimension n is a multiple of W.

    Args:
        loss: A function of the sides, cut to R rows, that treats each row on its own and draws nothing at random. It
            returns a tensor (R, ...), None, or a tuple of such. It is called again in the backward pass, so what it
            refers to must not change until then.
        sides: Tensors (n, ...).
        columns: Number of columns of the matrix that `loss` computes of its rows.

    Returns:
        The same for all n rows.
    """
    count = len(sides[0])
    if fits(count, columns, sides[0]):
        return loss(*sides)
    size = max(1, BLOCK_BYTES // _row_bytes(columns, sides[0]))
    own = distributed.local_rows(count // distributed.world_size())
    blocks = zip(*(side[own].split(size) for side in sides), strict=True)  # type: ignore[no-untyped-call]
    parts = [checkpoint(loss, *block, use_reentrant=False, preserve_rng_state=False) for block in blocks]
    return cast("T", _join(parts))


def require_whole(rows: int, columns: int, like: Tensor) -> None:
    """Refuse a matrix (rows, columns) that is needed whole, if it is too large for that.

    Raises:
        ValueError: The matrix has more than `WHOLE_BYTES`.
    """
    size = rows * _row_bytes(columns, like)
    if size > WHOLE_BYTES:
        raise ValueError(
            f"it needs the whole matrix of {rows} x {columns} similarities, which takes {size / 2**30:.0f} GB, several "
            "times over; use a smaller batch, or an objective that takes a block of rows at a time, such as SimCSE"
        )


def _row_bytes(columns: int, like: Tensor) -> int:
    return columns * max(4, like.element_size())


def _join(parts: list[Any]) -> Any:
    """Tensors (R, ...) one after another, over all processes; tuples entry by entry."""
    first = parts[0]
    if first is None:
        return None
    if isinstance(first, Tensor):
        return distributed.gather(torch.cat(parts))
    joined = [_join(list(entry)) for entry in zip(*parts, strict=True)]
    return type(first)(*joined) if hasattr(first, "_fields") else tuple(joined)
