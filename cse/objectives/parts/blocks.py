"""Rows of a matrix that is never whole, so that a loss takes memory linear in the batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from cse import distributed

T = TypeVar("T")

BLOCK_BYTES = 2**24  # of a block of similarities; the loss holds about fifteen such blocks at a time
ON_GPU = 16  # times as large: smaller blocks would be launches of kernels without work
WHOLE_BYTES = 2**32  # of a matrix that an objective needs whole: 32,768 x 32,768 similarities


def fits(rows: int, columns: int, like: Tensor) -> bool:
    """Tell whether a matrix (rows, columns) is small enough to be computed whole."""
    return rows * _row_bytes(columns, like) <= _block_bytes(like)


def _block_bytes(like: Tensor) -> int:
    return BLOCK_BYTES * ON_GPU if like.device.type == "cuda" else BLOCK_BYTES


def by_rows(loss: Callable[..., T], sides: tuple[Tensor, ...], columns: int, shared: tuple[Tensor, ...] = ()) -> T:
    """Join what `loss` makes of the rows of `sides`.

    If the matrix (n, columns) fits into a block, `loss` sees all rows at once. Otherwise it sees a block of rows at a
    time, once in the forward pass and once more in the backward pass, and every process takes its share of the rows:
    all processes must call this with the same tensors. The first dimension n is a multiple of W.

    Args:
        loss: A function of the sides, cut to R rows, and of `shared`. It treats each row on its own, draws nothing at
            random, and returns a tensor (R, ...), None, or a tuple of such.
        sides: Tensors (n, ...).
        columns: Number of columns of the matrix that `loss` computes of its rows.
        shared: Further tensors, seen by all rows. Gradients reach the sides and these, and no other tensor.

    Returns:
        The same for all n rows.
    """
    count = len(sides[0])
    if fits(count, columns, sides[0]):
        return loss(*sides, *shared)
    size = max(1, _block_bytes(sides[0]) // _row_bytes(columns, sides[0]))
    own = distributed.local_rows(count // distributed.world_size())
    shape: list[Any] = []
    found = _Blocks.apply(loss, size, len(sides), shape, *(side[own] for side in sides), *shared)  # type: ignore[no-untyped-call, unused-ignore]
    return cast("T", _shaped(shape[0], iter([distributed.gather(each) for each in found])))


def require_whole(rows: int, columns: int, like: Tensor) -> None:
    """Refuse a matrix (rows, columns) that is needed whole, if it is too large for that."""
    size = rows * _row_bytes(columns, like)
    if size > WHOLE_BYTES:
        raise ValueError(
            f"it needs the whole matrix of {rows} x {columns} similarities, which takes {size / 2**30:.0f} GB, several "
            "times over; use a smaller batch, or an objective that takes a block of rows at a time, such as SimCSE"
        )


class _Blocks(torch.autograd.Function):
    """The tensors that a loss makes of all rows, a block at a time.

    One node of the graph for all blocks: a graph for each block, as `torch.utils.checkpoint` makes it, leaves small
    objects between the blocks' matrices, and the C library then cannot use that memory for the next block.
    """

    @staticmethod
    def forward(
        ctx: Any, loss: Callable[..., Any], size: int, sides: int, shape: list[Any], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        count, found = len(tensors[0]), list[Tensor]()
        for start in range(0, count, size):
            rows = slice(start, start + size)
            made = loss(*(side[rows] for side in tensors[:sides]), *tensors[sides:])
            parts = list(_flat(made))
            if not found:
                shape.append(made)
                found = [part.new_empty(count, *part.shape[1:]) for part in parts]
            for whole, part in zip(found, parts, strict=True):
                whole[rows] = part
        ctx.save_for_backward(*tensors)
        ctx.loss, ctx.size, ctx.sides, ctx.device = loss, size, sides, tensors[0].device.type
        ctx.autocast = {"enabled": torch.is_autocast_enabled(ctx.device), "dtype": torch.get_autocast_dtype(ctx.device)}
        ctx.mark_non_differentiable(*(each for each in found if not each.is_floating_point()))
        return tuple(found)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        needed = ctx.needs_input_grad[4:]
        sides, shared = ctx.saved_tensors[: ctx.sides], ctx.saved_tensors[ctx.sides :]
        shared = [t.detach().requires_grad_(n) for t, n in zip(shared, needed[ctx.sides :], strict=True)]
        totals = [torch.zeros_like(t) if n else None for t, n in zip(sides, needed[: ctx.sides], strict=True)]
        for start in range(0, len(sides[0]), ctx.size):
            rows = slice(start, start + ctx.size)
            cut = [t[rows].detach().requires_grad_(total is not None) for t, total in zip(sides, totals, strict=True)]
            with torch.enable_grad(), torch.autocast(ctx.device, **ctx.autocast):
                made = list(_flat(ctx.loss(*cut, *shared)))
            reached = [(part, grad[rows]) for part, grad in zip(made, grads, strict=True) if part.requires_grad]
            leaves = [t for t in (*cut, *shared) if t.requires_grad]
            torch.autograd.backward([part for part, _ in reached], [grad for _, grad in reached], inputs=leaves)
            for total, part in zip(totals, cut, strict=True):
                if total is not None and part.grad is not None:
                    total[rows] = part.grad
        return None, None, None, None, *totals, *(t.grad for t in shared)


def _row_bytes(columns: int, like: Tensor) -> int:
    return columns * max(4, like.element_size())


def _flat(value: Any) -> Iterator[Tensor]:
    """The tensors of a tensor, None, or a tuple of such."""
    if isinstance(value, Tensor):
        yield value
    elif value is not None:
        for entry in value:
            yield from _flat(entry)


def _shaped(like: Any, tensors: Iterator[Tensor]) -> Any:
    """The tensors in the places that those of `like` have."""
    if like is None:
        return None
    if isinstance(like, Tensor):
        return next(tensors)
    entries = [_shaped(entry, tensors) for entry in like]
    return type(like)(*entries) if hasattr(like, "_fields") else tuple(entries)
