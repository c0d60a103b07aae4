"""PromCSE: prompt-based contrastive and energy-based learning (Jiang et al., EMNLP Findings 2022, arXiv:2203.06875)."""

from __future__ import annotations

from torch import Tensor

from cse.batch import Batch, LossOutput, Views
from cse.errors import NotNegative, Positive
from cse.interfaces import Objective, StepContext
from cse.objectives.parts.candidates import InBatch, by_anchor
from cse.objectives.parts.functional import Contrast, contrast, energy_hinge, weighted_mean


class PromCSE(Objective):
    """NT-Xent and an energy-based hinge on the hardest negative of the whole batch.

        L = NTXent + w mean_i max(0, m + max( max_{j != i} cos(z_i, z+_j), max_j cos(z_i, z-_j) ) - cos(z_i, z+_i))

    NTXent is SimCSE's loss (its equation 5), at the temperature; the second term is the paper's energy-based hinge, on
    raw cosines. This is the supervised objective. Unsupervised PromCSE has no hinge: it is `SimCSE`, and for RoBERTa
    `MaskedLM(output="own")` beside it, in a `WeightedSum` with weight 0.1 and decay 0.95. The paper trains soft prompts
    of a frozen backbone; the objective takes any encoder.

    Args:
        temperature: Temperature of NTXent, > 0 (paper: 0.05).
        hard_negative_weight: Added to the logit of the row's own hard negatives, in NTXent only (authors' program: 0).
        hinge_weight: w, >= 0 (authors' program: 10).
        margin: m, in cosine (authors' RoBERTa-large script: 0.2; it is undocumented for other backbones).

    Deviations:
        Rows without hard negatives have a hinge over the in-batch negatives; the authors' program fails on them. A
        candidate of the anchor's own text is masked in both terms, as in `SimCSE`.

    Source: YJiangcm/PromCSE, promcse/models.py:246-259, 277-279.
    """

    weighs_rows = True

    temperature: Positive = 0.05
    hard_negative_weight: float = 0.0
    hinge_weight: NotNegative = 10.0
    margin: float = 0.2

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        ntxent, hinges = by_anchor(views, batch, self._rows)
        hinge = weighted_mean(hinges, batch.weight)
        metrics = {"ntxent": ntxent.loss.detach(), "hinge": hinge.detach(), "skipped": ntxent.skipped.float()}
        return LossOutput(ntxent.loss + self.hinge_weight * hinge, metrics)

    def _rows(self, pairs: InBatch) -> tuple[Contrast, Tensor]:
        """NTXent and the hinge (A,) of some anchors."""
        logits = pairs.similarity / self.temperature  # (A, N)
        bias = pairs.own_negative * self.hard_negative_weight
        ntxent = contrast(logits, pairs.positive, mask=pairs.mask, bias=bias, weight=pairs.weight)
        return ntxent, energy_hinge(pairs.similarity, pairs.positive, margin=self.margin, mask=pairs.mask)
