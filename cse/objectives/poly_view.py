"""Poly-View Contrastive Learning (Shidani et al., ICLR 2024, arXiv:2403.05490)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from cse.batch import Batch, LossOutput, Views
from cse.errors import Positive
from cse.interfaces import Objective, StepContext
from cse.objectives.parts.candidates import AllPairs, by_view
from cse.objectives.parts.functional import Contrast, contrast, dot_matrix, normalize

SHORTEST = 1e-4  # the length of a mean of unit vectors below which rounding gives it a direction


class PolyView(Objective):
    """Contrast of M >= 2 views of an item, each an anchor, with the other views as positives.

        r_iab = e^{z_ia z_ib/t} / ( e^{z_ia z_ib/t} + sum_{j != i} sum_c e^{z_ia z_jc/t} )

        geometric    L = - mean_{ia} mean_{b != a} log r_iab
        arithmetic   L = - mean_{ia} log mean_{b != a} r_iab
        sufficient   L = - mean_{ia} log e^{z_ia q_ia/t} / ( e^{z_ia q_ia/t} + sum_{j != i} sum_c e^{z_ia q_jc/t} )

    with q_ia the mean of the views of item i other than a, scaled to unit length: the sufficient statistic of these
    views. The views of an item are never each other's negatives. With M = 2 the three forms are equal; for every M,
    `geometric` >= `arithmetic`. Hard negatives are negatives of every anchor.

    Args:
        form: One of the three forms above.
        temperature: t, dimensionless, > 0 (0.05 as in SimCSE; the paper's experiments are on images).
        normalize_mean: Whether q has unit length.

    Deviations:
        The authors released no program. The equations are those of the paper as remembered, and whether q has unit
        length is not certain. A q of a mean shorter than 1e-4 is 0, without a gradient.
    """

    weighs_rows = True

    form: Literal["geometric", "arithmetic", "sufficient"] = "geometric"
    temperature: Positive = 0.05
    normalize_mean: bool = True

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        if self.form == "sufficient":
            candidates = self._with_rest(views)  # (N, D') unit vectors
            result = by_view(views, batch, self._rows, lambda a, b: dot_matrix(normalize(a), b), candidates=candidates)
        else:
            result = by_view(views, batch, self._rows)
        return result.output()

    def _rows(self, pairs: AllPairs) -> Contrast:
        target, mask = pairs.positive, pairs.mask  # (A, N)
        if self.form == "sufficient":
            target = torch.zeros_like(target).scatter(1, pairs.view[:, None], 1.0)  # (A, N) q_ia belongs to z_ia
            mask = (pairs.mask & (pairs.positive == 0)) | (target > 0)
        return contrast(
            pairs.similarity / self.temperature,
            target,
            mask=mask,
            weight=pairs.weight,
            denominator="self",
            reduce="in" if self.form == "arithmetic" else "out",
        )

    def _with_rest(self, views: Views) -> Tensor:
        """(N, D') unit vectors of the views, with q in the place of the first A, before the hard negatives."""
        unit = normalize(views.require_aligned("PolyView"))  # (B, M, D')
        rest = (unit.sum(1, keepdim=True) - unit) / (unit.shape[1] - 1)  # (B, M, D')
        rest = torch.cat([rest[:, 0], rest[:, 1:].flatten(0, 1)])  # (A, D') in the order of `all_pairs`
        if self.normalize_mean:
            length = rest.detach().norm(dim=-1, keepdim=True)  # (A, 1)
            rest = normalize(torch.where(length > SHORTEST, rest, 0.0))
        return torch.cat([rest, normalize(views.negative.flatten(0, 1))])
