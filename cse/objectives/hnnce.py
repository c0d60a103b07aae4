"""HN-NCE: hard-negative noise contrastive estimation of DiHT (Radenovic et al., CVPR 2023, arXiv:2301.02280)."""

from __future__ import annotations

import torch
from torch import Tensor

from cse.batch import Batch, LossOutput, Views
from cse.errors import NotNegative, Positive
from cse.interfaces import Objective, StepContext
from cse.objectives.parts.candidates import InBatch, by_anchor, swapped
from cse.objectives.parts.functional import Contrast, contrast, log_hardness


class HNNCE(Objective):
    """Contrast in both directions in which a negative weighs more the more similar it is.

        l_i = - s_ii + log( a e^{s_ii} + sum_{j != i} w_ij e^{s_ij} ),    s = cos/t
        w_ij = (B - 1) e^{b s_ij} / sum_{k != i} e^{b s_ik}

    The paper's loss, summed over the directions from anchors to positives and back; each is a mean over rows. With b =
    0 and a = 1 it is InfoNCE. b multiplies the logits, temperature included. Hard negatives join the negatives of the
    anchors, and the weights of a row sum to the number of its negatives. Rows have one positive.

    Args:
        temperature: t, dimensionless, > 0 (SimCSE's 0.05; the paper learns it, for images).
        alpha: a, >= 0 (CoVR's program: 1). 0 leaves the positive out of the denominator.
        beta: b, >= 0 (CoVR's program: 0.5). Large values leave one negative to each row.
        detach_weights: Whether no gradient flows through w. The paper does not say; the programs of CoVR and HCL let it
            flow.

    Deviations:
        The authors released no training loss: this is the paper's equation. CoVR's program divides the weights of a row
        by the sum of another in one direction.

    Source: the paper's equation; lucas-ventura/CoVR, src/model/blip/loss.py:27-88, for the defaults.
    """

    weighs_rows = True

    temperature: Positive = 0.05
    alpha: NotNegative = 1.0
    beta: NotNegative = 0.5
    detach_weights: bool = False

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        there = self._direction(views, batch)
        back = self._direction(*swapped(views, batch))
        metrics = {"anchor_to_positive": there.detach(), "positive_to_anchor": back.detach()}
        return LossOutput(there + back, metrics)

    def _direction(self, views: Views, batch: Batch) -> Tensor:
        log_alpha = torch.tensor(self.alpha or 1.0).log().item()

        def loss(pairs: InBatch) -> Contrast:
            logits = pairs.similarity / self.temperature  # (A, N)
            positive = pairs.positive > 0
            negative = ~positive if pairs.mask is None else ~positive & pairs.mask
            bias = log_hardness(logits.detach() if self.detach_weights else logits, negative, self.beta)  # (A, N)
            return contrast(
                logits,
                pairs.positive,
                mask=pairs.mask,
                bias=torch.where(positive, log_alpha, bias),
                weight=pairs.weight,
                denominator="all" if self.alpha else "none",
            )

        return by_anchor(views, batch, loss).loss + log_alpha  # the kernel puts a into the numerator as well
