"""GCL: Generalized Contrastive Learning for Multi-Modal Retrieval and Ranking (Zhu et al., 2024, arXiv:2404.08535)."""

from __future__ import annotations

import torch

from cse.batch import Batch, LossOutput, Views
from cse.errors import Positive
from cse.interfaces import Objective, StepContext
from cse.objectives.parts.candidates import InBatch, by_anchor, info_nce, swapped
from cse.objectives.parts.functional import Contrast, contrast


class GCL(Objective):
    """InfoNCE in both directions whose rows count by the relevance of their pair.

        L = ( sum_i w_i l(x_i, y_i) + sum_i w_i l(y_i, x_i) ) / ( 2 sum_i w_i )
        l(x_i, y_i) = - log e^{cos(x_i, y_i)/t} / sum_j e^{cos(x_i, y_j)/t}

    w is the weight of the row (`Batch.weight`, `data.weight_column`): a function of how well a document answers a
    query, such as of its rank or its clicks. Without weights, this is symmetric InfoNCE. Hard negatives are candidates
    of the anchors; the other direction has none. Rows have one positive.

    Args:
        temperature: t, dimensionless, > 0 (0.05 as in SimCSE; the paper's program is not released).
        symmetric: Whether the loss has both directions. If not, only the first.

    Deviations:
        The authors released no training program; that the sum is divided by sum_i w_i, and not by B, is the equation as
        remembered.
    """

    weighs_rows = True

    temperature: Positive = 0.05
    symmetric: bool = True

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        sides = [(views, batch), swapped(views, batch)] if self.symmetric else [(views, batch)]
        return LossOutput(torch.stack([info_nce(*side, self.temperature).loss for side in sides]).mean())


class GradedGCL(Objective):
    """InfoNCE with several positives in each row, as many as the relevance of each says.

        L = mean_i - sum_p ( r_ip / sum_q r_iq ) log e^{cos(x_i, y_ip)/t} / sum_{jq} e^{cos(x_i, y_jq)/t}

    The cross-entropy of the softmax over all documents of the batch and the relevances r (`Batch.relevance`,
    `data.relevance_columns`) of its own. A document of relevance 0 is a hard negative; a row without any relevance is
    skipped and counted. With one positive in each row, this is InfoNCE.

    Args:
        temperature: t, dimensionless, > 0 (0.05 as in SimCSE; the paper's program is not released).

    Deviations:
        Same as for `GCL`.
    """

    requires = frozenset({"relevance"})
    weighs_rows = True

    temperature: Positive = 0.05

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        relevance = batch.require("relevance", "GradedGCL")  # (B, P)

        def loss(pairs: InBatch) -> Contrast:
            target = pairs.positive.clone()  # (A, N)
            graded = relevance[pairs.row].flatten()  # the positives of a row are neighbors, in order
            target[target > 0] = graded.to(target.dtype)
            return contrast(pairs.similarity / self.temperature, target, mask=pairs.mask, weight=pairs.weight)

        return by_anchor(views, batch, loss).output()
