"""ArcCSE: pairwise and triple-wise contrast in angular space (Zhang et al., ACL 2022)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated

import torch
from torch import Tensor

from cse.batch import Batch, LossOutput, Views
from cse.errors import NotNegative, Positive
from cse.interfaces import Objective, StepContext
from cse.objectives.parts.candidates import InBatch, by_anchor
from cse.objectives.parts.functional import Contrast, contrast, normalize, triplet, weighted_mean


class ArcCSE(Objective):
    """SimCSE with a margin on the angle of the pair, and a hinge that orders a text's renderings by what they lost.

        L = mean_i - log e^{cos(th_ii + m)/t} / ( e^{cos(th_ii + m)/t} + sum_{j != i} e^{cos(th_ij)/t} )
            + w mean_i max(0, cos(z_i, z''_i) - cos(z_i, z'_i) + m2)

    th_ij is the angle between z_i and z+_j, z' a rendering that lost some words and z'' one that lost more, the same
    words among them. Rows have these four views in this order, as the collator `cse.data.NestedViews` makes them of a
    text. With w = 0 the second term is left out, and rows are those of `SimCSE`: several positives and hard negatives
    are possible.

    Args:
        temperature: t, > 0 (paper: 0.05).
        margin: m, in degrees, in [0, 90] (paper: 10).
        triplet_weight: w, >= 0 (paper: 0.1).
        triplet_margin: m2, in cosine, >= 0.

    Deviations:
        The equations are the paper's; no program by its authors was found. A public program adds the margin only where
        the cosine of the pair is positive, and compares the renderings of each text with those of all texts; neither is
        done here. Equal vectors get no gradient from their angle, whose derivative is infinite there.

    Source: aclanthology.org/2022.acl-long.336.
    """

    weighs_rows = True

    temperature: Positive = 0.05
    margin: Annotated[float, "in [0, 90]"] = 10.0
    triplet_weight: NotNegative = 0.1
    triplet_margin: NotNegative = 0.0

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        if not self.triplet_weight:
            return LossOutput(self.arc(views, batch))
        if batch.views != 4:
            raise ValueError(
                "ArcCSE needs four views in each row: a text, its positive, and renderings that lost some words and "
                f"more; this batch has {batch.views}. Set collator to cse.data.NestedViews, or "
                "objective.triplet_weight to 0"
            )
        batch.require_even("ArcCSE")
        z, positive, near, far = views.projected.unbind(1)
        pair = Views(z, positive[:, None], views.negative[:, :0], views.embedding)
        arc = self.arc(pair, replace(batch.with_views([0, 1]), num_positives=1))
        order = self.order(z, near, far, batch.weight)
        metrics = {"contrast": arc.detach(), "order": order.detach()}
        return LossOutput(arc + self.triplet_weight * order, metrics)

    def arc(self, views: Views, batch: Batch) -> Tensor:
        """The first term."""
        return by_anchor(views, batch, self._rows, shared=(self._change(views),)).loss

    def _rows(self, pairs: InBatch, change: Tensor) -> Contrast:
        """The contrast of some anchors, given what the margin changes (B, P)."""
        own = torch.zeros_like(pairs.similarity).masked_scatter(pairs.positive > 0, change[pairs.row])  # (A, N)
        logits = (pairs.similarity + own) / self.temperature
        return contrast(logits, pairs.positive, mask=pairs.mask, weight=pairs.weight)

    def order(self, anchor: Tensor, near: Tensor, far: Tensor, weight: Tensor | None = None) -> Tensor:
        """The second term, without its weight, of vectors (B, D')."""
        return weighted_mean(triplet(anchor, near, far, distance="cosine", margin=self.triplet_margin), weight)

    def _change(self, views: Views) -> Tensor:
        """(B, P) cos(th + m) - cos(th) of each anchor with its own positives."""
        m, u, v = math.radians(self.margin), normalize(views.anchor)[:, None], normalize(views.positive)
        # Of a cosine near 1 the sine would have a hundredth of its digits: sqrt(1 - c^2) = |u - v| |u + v| / 2.
        sine = torch.linalg.vector_norm(u - v, dim=-1) * torch.linalg.vector_norm(u + v, dim=-1) / 2
        return (u * v).sum(-1) * (math.cos(m) - 1) - sine * math.sin(m)
