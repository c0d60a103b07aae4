"""Vectors of earlier batches, as further negatives."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cse.errors import require_at_least


class Queue(nn.Module):
    """The last vectors that were pushed, at most N. It is a buffer, so that the state of a run holds it.

    An objective keeps the vectors of a batch in `forward`, which accumulation calls several times per step, and pushes
    them once in `after_step`. They must be those of all processes, detached, so that every process has the same queue:
    buffers are not sent.

    Args:
        size: N. 0 keeps nothing.
        width: D', the size of a vector.

    Raises:
        UserError: The size is negative.
    """

    vectors: Tensor
    filled: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        require_at_least(0, type(self).__name__, size=size)
        self.register_buffer("vectors", torch.zeros(size, width))  # (N, D') oldest first, behind what is still empty
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))
        self.count = 0  # what `filled` holds, known without waiting for a GPU
        self.register_load_state_dict_post_hook(_count_again)  # type: ignore[no-untyped-call]

    def rows(self) -> Tensor:
        """(n, D') the vectors, oldest first; n <= N."""
        return self.vectors[len(self.vectors) - self.count :]

    @torch.no_grad()
    def push(self, rows: Tensor) -> None:
        """Add vectors (B, D') of the gathered batch; the oldest ones make room."""
        size = len(self.vectors)
        self.vectors.copy_(torch.cat([self.vectors, rows.to(self.vectors)])[len(rows) :])
        self.count = min(size, self.count + len(rows))
        self.filled.fill_(self.count)


def _count_again(queue: Queue, _: object) -> None:
    """Count the vectors of a queue whose state was loaded."""
    queue.count = int(queue.filled)
