"""Spread-out regularization (Zhang et al., ICCV 2017, arXiv:1708.06320; EmbeddingGemma, arXiv:2509.20354)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from cse.batch import Batch, LossOutput, Views
from cse.errors import NotNegative
from cse.interfaces import Objective, StepContext
from cse.objectives.parts.candidates import pair_sums


class SpreadOut(Objective):
    """Texts as far from each other as random directions are, whose cosines have mean 0 and mean square 1 / D.

        L = mean over views v of  a M_1(v)^2 + b max(0, M_2(v) - 1/D),    M_k(v) = mean_{i < j} cos(v_i, v_j)^k

    A term of a `WeightedSum` beside a contrastive loss (section 3.2 of the first paper). Vectors that use the whole
    sphere lose less when they are quantized or searched approximately (section 3 of the second, which has a = 0). A
    view is one place of the rows: anchors, first positives, and so on; hard negatives take no part. If rows have
    weights (`Batch.weight`), a pair counts by the product of its weights.

    Args:
        mean_weight: a, >= 0 (paper: 1).
        second_weight: b, >= 0 (paper: 1).

    Deviations:
        Two rows with a text in common are not a pair (`Batch.text_id`); in the authors' programs they repel each other.
        EmbeddingGemma adds the views instead of averaging them, and does not subtract 1/D, which is a constant.

    Source: sentence-transformers 6.2.0, losses/global_orthogonal_regularization.py.
    """

    weighs_rows = True

    mean_weight: NotNegative = 1.0
    second_weight: NotNegative = 1.0

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        sides = views.require_aligned("SpreadOut")  # (B, 1 + P, D')
        texts = None if batch.text_id is None else batch.text_id[:, : sides.shape[1]]
        moments = []
        for side in sides.unbind(1):
            cosines, squares, pairs = pair_sums(side, torch.clone, torch.square, texts=texts, weight=batch.weight)
            moments.append(torch.stack([cosines, squares]) / torch.where(pairs > 0, pairs, 1.0))
        mean, second = torch.stack(moments, dim=1)  # (1 + P,) each
        excess = F.relu(second - 1 / sides.shape[-1])
        loss = self.mean_weight * mean.square().mean() + self.second_weight * excess.mean()
        return LossOutput(loss, {"mean_cosine": mean.detach().mean(), "mean_square": second.detach().mean()})
