"""Spans of all processes, for objectives that compare parts of texts."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from cse.interfaces import StepContext


def gathered(vectors: Tensor, present: Tensor, ctx: StepContext) -> tuple[Tensor, Tensor]:
    """The spans of every process, with gradient.

    Args:
        vectors: (b, ..., S, D) of this process; S may differ by process.
        present: (b, ..., S) True where there is a span.
        ctx: The context of the step.

    Returns:
        (B, ..., S, D) and (B, ..., S), padded with absent spans to the largest S of a process.
    """
    more = ctx.all_max(present.shape[-1]) - present.shape[-1]
    return ctx.gather(F.pad(vectors, (0, 0, 0, more))), ctx.gather(F.pad(present, (0, more)))
