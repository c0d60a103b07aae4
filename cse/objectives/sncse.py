"""SNCSE: Contrastive Learning with Soft Negative Samples (Wang et al., 2022, arXiv:2201.05979)."""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from torch import Tensor

from cse.batch import Batch, LossOutput, Views
from cse.errors import NotNegative, Positive, UserError
from cse.interfaces import Objective, StepContext
from cse.objectives.parts.candidates import info_nce
from cse.objectives.parts.functional import paired_cosine, weighted_mean


class SNCSE(Objective):
    """SimCSE's contrast, and two margins that keep a text's negation a little farther from it than its positive.

        L = L_contrast + lambda mean_i ( max(0, D_i + a) + max(0, - D_i - b) )
        D_i = cos(z_i, z-_i) - cos(z_i, z+_i)

    The bidirectional margin loss of the paper: the soft negative z- should be between a and b less similar to the
    anchor than the positive is. It is the row's hard negative, and takes no part in the contrast, which is SimCSE's
    without hard negatives. `cse.data.AugmentedViews` makes it of each text by `negative_augmentations` with
    `cse.augment.Negation`; the hard negatives of triplets serve as well. Of several, the mean counts, and a row without
    any adds 0. The authors read the vector at the mask token of a template (`pooler: mask`), and write both other texts
    in a second template (`cse.data.InTemplates`). Rows have one positive.

    Args:
        temperature: Temperature of the contrast, > 0 (authors' command: 0.05).
        margin_weight: lambda, >= 0 (authors' program: 0.001 for BERT, 0.0005 for RoBERTa).
        least_gap: a, in cosine, within [-2, 2] (authors' program: 0.1).
        largest_gap: b, in cosine, within [-2, 2], >= a (authors' program: 0.3).

    Source: Sense-GVT/SNCSE, SNCSE/simcse/models.py:113-160, SNCSE/train_SNCSE.py:364-369.
    """

    weighs_rows = True

    temperature: Positive = 0.05
    margin_weight: NotNegative = 1e-3
    least_gap: Annotated[float, "in [-2, 2]"] = 0.1
    largest_gap: Annotated[float, "in [-2, 2]"] = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.least_gap > self.largest_gap:
            raise UserError(
                f"objective.least_gap is {self.least_gap} and objective.largest_gap is {self.largest_gap}, so that no "
                "gap satisfies both\nfix: give least_gap <= largest_gap"
            )

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        if views.positive.shape[1] != 1:
            raise ValueError(f"SNCSE needs rows of one positive; this batch has {views.positive.shape[1]}")
        pair = Views(views.anchor, views.positive, views.negative[:, :0], views.embedding)
        contrastive = info_nce(pair, batch.with_views([0, 1]), self.temperature)
        margins = weighted_mean(self.margins(views, batch), batch.weight)
        metrics = {"contrastive": contrastive.loss.detach(), "margins": margins.detach()}
        metrics |= {"skipped": contrastive.skipped.float()}
        return LossOutput(contrastive.loss + self.margin_weight * margins, metrics)

    def margins(self, views: Views, batch: Batch) -> Tensor:
        """(B,) how far each row's soft negatives are outside the two margins, as a mean over them."""
        anchor = views.anchor[:, None]  # (B, 1, D')
        gap = paired_cosine(anchor, views.negative) - paired_cosine(anchor, views.positive)  # (B, K)
        outside = F.relu(gap + self.least_gap) + F.relu(-gap - self.largest_gap)
        if batch.view_mask is None:
            return outside.sum(1) / max(1, outside.shape[1])
        present = batch.view_mask[:, 2:]
        return (outside * present).sum(1) / present.sum(1).clamp_min(1)
