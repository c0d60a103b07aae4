"""EuCLIP: Embedding Geometries of Contrastive Language-Image Pre-Training (Chou and Alam, 2024, arXiv:2409.13079)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cse.batch import Batch, LossOutput, Views
from cse.errors import Positive
from cse.interfaces import Objective, StepContext
from cse.objectives.parts.candidates import InBatch, by_anchor, swapped
from cse.objectives.parts.functional import Contrast, contrast, squared_distance


class EuCLIP(Objective):
    """InfoNCE in both directions by Euclidean distance, with vectors of any length.

        S_ij = - s |x_i - y_j|^2 / D,    L = ( CE(S) + CE(S^T) ) / 2

    D is the number of dimensions. The checkpoint says that its vectors are compared by distance. Hard negatives are
    candidates of the anchors; the other direction has none. Rows have one positive.

    Args:
        temperature: 1/s before training, > 0; s is learned (authors: 1).
        squared: Whether the distance is squared. If not, S_ij = - s |x_i - y_j| / sqrt(D).

    Deviations:
        The entailment loss of the authors' program is left out.

    Source: EIFY/open_clip, branch euclip, src/open_clip/loss.py:81-86 and 172-245; model.py:262 and 320.
    """

    weighs_rows = True
    similarity = "euclidean"
    note = "It was trained by Euclidean distance, and its vectors have any length; cosine is not its geometry."

    temperature: Positive = 1.0
    squared: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.log_scale = nn.Parameter(torch.tensor(1 / self.temperature).log())

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        there = self._loss(views, batch)
        back = self._loss(*swapped(views, batch))
        return LossOutput((there + back) / 2, {"scale": self.log_scale.detach().exp()})

    def _loss(self, views: Views, batch: Batch) -> Tensor:
        def loss(pairs: InBatch, log_scale: Tensor) -> Contrast:
            logits = pairs.similarity * log_scale.exp()  # (A, N)
            return contrast(logits, pairs.positive, mask=pairs.mask, weight=pairs.weight)

        return by_anchor(views, batch, loss, self._nearness, (self.log_scale,)).loss

    def _nearness(self, a: Tensor, b: Tensor) -> Tensor:
        """(A, N) the distance's negative."""
        squared = squared_distance(a, b) / a.shape[1]
        return -squared if self.squared else -squared.clamp_min(1e-30).sqrt()
