"""Cut rows of unequal length into sub-batches that waste little on padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from cse.encoder.fast.switch import enabled, may_cut


def length_chunks(lengths: Sequence[int], overhead: int) -> list[list[int]]:
    """Cut rows into length-sorted sub-batches of least cost: rows x longest, plus `overhead` tokens a sub-batch.

    The cost is minimized exactly, over cuts between distinct lengths. The result does not change, because a row's
    vector does not depend on its neighbors. The row numbers of each sub-batch are given, the longest rows first so that
    peak memory is reached at once.
    """
    if not may_cut():
        return [list(range(len(lengths)))]
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    ends = [i for i in range(1, len(order) + 1) if i == len(order) or lengths[order[i]] != lengths[order[i - 1]]]
    best, previous = {0: 0}, {}
    for end in ends:
        longest = lengths[order[end - 1]]
        best[end], previous[end] = min(
            (cost + (end - start) * longest + overhead, start) for start, cost in best.items()
        )
    chunks, end = [], len(order)
    while end:
        chunks.append(order[previous[end] : end])
        end = previous[end]
    return chunks


def token_budget_batches(
    lengths: Sequence[int] | NDArray[np.int64], max_tokens: int, batch_size: int | None = None
) -> Iterator[NDArray[np.int64]]:
    """Row numbers in batches of rows x longest <= max_tokens (one row at least), longest first, and of equal parts."""
    tokens = np.asarray(lengths, dtype=np.int64)
    ordered = enabled()
    order, start = np.argsort(-tokens, kind="stable") if ordered else np.arange(len(tokens)), 0
    while start < len(order):
        longest = int(tokens[order[start]] if ordered else tokens.max())
        rows = order[start : start + max(1, max_tokens // max(1, longest))]
        yield from np.array_split(rows, -(-len(rows) // (batch_size or len(rows))))
        start += len(rows)


def chunk_overhead(device: torch.device) -> int:
    """The cost of one more sub-batch, in tokens that could be computed in that time.

    Measured with a BERT of 4 x 256 and a LoRA of 26 x 576; half or twice the value changes the time by a few percent.
    """
    if device.type != "cpu":
        return 4096
    return 512 if torch.is_autocast_enabled("cpu") and _has_tiles() else 48


def native_bf16(device: torch.device | str) -> bool:
    """Tell whether the device multiplies bfloat16 in hardware: CUDA from 8.0, CPUs with AVX512-BF16 or AMX."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    cpu = getattr(torch, "cpu", None)
    return bool(cpu and cpu._is_avx512_bf16_supported()) or _has_tiles()


def _has_tiles() -> bool:
    """Tell whether the CPU multiplies matrices in hardware (AMX), several times as fast as AVX512-BF16."""
    cpu = getattr(torch, "cpu", None)
    return bool(cpu and cpu._is_amx_tile_supported())
