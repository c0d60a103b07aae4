"""InfoLOOB, as in CLOOB with its Hopfield retrieval (Fürst et al., NeurIPS 2022, arXiv:2110.11316)."""

from __future__ import annotations

import torch
from torch import Tensor

from cse.batch import Batch, LossOutput, Views
from cse.errors import Positive
from cse.interfaces import Objective, StepContext
from cse.objectives.parts.blocks import by_rows
from cse.objectives.parts.candidates import info_nce, swapped
from cse.objectives.parts.functional import normalize


class InfoLOOB(Objective):
    """Contrast in both directions without the positive in the denominator, on vectors retrieved from the batch.

        L = t ( l(x, y) + l(y, x) ),    l(x, y) = mean_i ( - s(u_i, v_i) + log sum_{j != i} e^{s(u_i, v_j)} )
        u = r(x, x),  v = r(y, x),  r(q, M) = softmax(b q M^T) M on unit vectors,  s = cos/t

    x are the anchors and y the positives. The leave-one-out bound does not saturate where the positive fills the
    denominator. Each direction compares retrievals from its own memory, l(x, y) from the anchors and l(y, x) from the
    positives, which brings out what vectors have in common with the rest of the batch. The paper's loss is the sum of
    the directions. It has no lower bound, so that its value says little. Hard negatives are candidates of the anchors.
    Rows have one positive.

    Args:
        temperature: t, > 0 (authors' Conceptual Captions setting: 1/30; their program's default: 1/14.3).
        hopfield_beta: b, > 0 (that setting: 8; their program's default: 14.3). None: no retrieval, u = x and v = y.

    Deviations:
        Candidates with the text of the anchor are masked, as in `SimCSE`; the retrieval sees them.

    Source: ml-jku/cloob, src/training/methods.py:5-53.
    """

    weighs_rows = True

    temperature: Positive = 1 / 30
    hopfield_beta: Positive | None = 8.0

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        there = self._direction(views, batch)
        back = self._direction(*swapped(views, batch))
        metrics = {"anchor_to_positive": there.detach(), "positive_to_anchor": back.detach()}
        return LossOutput(there + back, metrics)

    def _direction(self, views: Views, batch: Batch) -> Tensor:
        """The mean loss times t, from the views' anchors to their positives."""
        if (beta := self.hopfield_beta) is not None:
            memory = normalize(views.anchor)  # (B, D')
            views = views.mapped(lambda queries: _retrieve(queries, memory, beta))
        return self.temperature * info_nce(views, batch, self.temperature, denominator="none").loss


def _retrieve(query: Tensor, memory: Tensor, beta: float) -> Tensor:
    """softmax(beta q M^T) M for queries (..., D') and a memory of unit vectors (B, D'): (..., D')."""

    def rows(some: Tensor, memory: Tensor) -> Tensor:
        with torch.autocast(query.device.type, enabled=False):
            scores = beta * normalize(some).to(memory.dtype) @ memory.T  # (R, ..., B)
            return torch.softmax(scores, -1) @ memory

    return by_rows(rows, (query,), query.shape[1:-1].numel() * len(memory), (memory,))
