"""HCL: Contrastive Learning with Hard Negative Samples (Robinson et al., ICLR 2021, arXiv:2010.04592)."""

from __future__ import annotations

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from cse.batch import Batch, LossOutput, Views
from cse.errors import NotNegative, Positive
from cse.interfaces import Objective, StepContext
from cse.objectives.parts.candidates import AllPairs, by_view
from cse.objectives.parts.functional import log_hardness, weighted_mean


class HCL(Objective):
    """NT-Xent over all views, in which hard negatives weigh more and likely false negatives are discounted.

        l_a = - log e^{s_ap} / ( e^{s_ap} + g ),    s = cos/t,    n negatives k of a
        g = max( (sum_k w_ak e^{s_ak} - n c e^{s_ap}) / (1 - c),  n e^{-1/t} )
        w_ak = n e^{b s_ak} / sum_k e^{b s_ak}

    Every view is an anchor, the other view of its row its positive p, and the views of other rows its negatives. c is
    the share of negatives that are taken to be false. With b = 0 and c = 0 it is SimCLR's NT-Xent. With several
    positives the loss of a view is the mean over them.

    Args:
        temperature: t, dimensionless, > 0 (authors' program: 0.5).
        beta: b, >= 0 (authors' program: 1).
        class_prior: c, in [0, 1) (authors' program: 0.1). 0 debiases nothing. Where c e^{s_ap} exceeds the weighted
            mean of the negatives, g is its floor, so that a small temperature needs a c near 0.

    Source: joshr17/HCL, image/main.py:28-56.
    """

    weighs_rows = True

    temperature: Positive = 0.5
    beta: NotNegative = 1.0
    class_prior: Annotated[float, "in [0, 1)"] = 0.1

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        rows, counted, weight = by_view(views, batch, self._rows)
        weight = counted if weight is None else counted * weight
        return LossOutput(weighted_mean(rows, weight.to(rows.dtype)), {"skipped": (~counted).sum().float()})

    def _rows(self, pairs: AllPairs) -> tuple[Tensor, Tensor, Tensor | None]:
        """The loss of some views (A,), whether it counts, and their weights."""
        logits = pairs.similarity / self.temperature  # (A, N)
        positive = (pairs.positive > 0) & pairs.mask
        negative = pairs.mask & ~positive
        terms = F.softplus(self._log_negatives(logits, negative) - logits)  # (A, N) -log e^s / (e^s + g)
        rows = (terms * positive).sum(1) / positive.sum(1).clamp_min(1)  # (A,)
        return rows, positive.any(1) & negative.any(1), pairs.weight

    def _log_negatives(self, logits: Tensor, negative: Tensor) -> Tensor:
        """Log g of every anchor with every candidate as its positive: (A, N), or (A, 1) if it is the same for all."""
        hardest = (logits + log_hardness(logits, negative, self.beta)).masked_fill(~negative, -torch.inf)
        log_sum = torch.logsumexp(hardest.masked_fill(~negative.any(1, keepdim=True), 0.0), 1, keepdim=True)  # (A, 1)
        if not self.class_prior:
            return log_sum
        log_count = negative.sum(1, keepdim=True).clamp_min(1).to(logits.dtype).log()
        discount = log_count + math.log(self.class_prior) + logits - log_sum  # log of n c e^s over the weighted sum
        rest = (-torch.expm1(discount.clamp_max(0.0))).clamp_min(torch.finfo(logits.dtype).tiny)
        return torch.maximum(log_sum + rest.log() - math.log1p(-self.class_prior), log_count - 1 / self.temperature)
