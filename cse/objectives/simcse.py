"""SimCSE: Simple Contrastive Learning of Sentence Embeddings (Gao et al., EMNLP 2021, arXiv:2104.08821)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from cse.batch import Batch, LossOutput, Views
from cse.errors import require_at_least, require_positive
from cse.interfaces import Objective, StepContext
from cse.objectives.parts.candidates import by_anchor, info_nce
from cse.objectives.parts.functional import Contrast, contrast
from cse.objectives.parts.layouts import InBatch

Hardness = Literal["all", "in_batch", "hard"]


class SimCSE(Objective):
    """In-batch contrast of each anchor with its positives, against the positives of other rows and all hard negatives.

        l_i = - log e^{cos(z_i, z+_i)/t} / sum_j ( e^{cos(z_i, z+_j)/t} + a^{[i=j]} e^{cos(z_i, z-_j)/t} )

    Equation 4 (unsupervised, where z+ is z under another dropout mask) and equations 5 and 8 (supervised, with hard
    negatives z-) of the paper. With P > 1 the row's loss is the mean over its positives. The batch's loss is the mean
    over rows, sum_i w_i l_i / sum_i w_i if the rows have weights w (`Batch.weight`).

    Args:
        temperature: t, dimensionless, > 0 (paper: 0.05, table D.2).
        hard_negative_weight: log a, added to the logit of the row's own hard negatives only (paper: 0, section 4).
        hardness: b, >= 0. It adds b cos, taken as a constant and not divided by t, to the logit of a negative, so that
            harder negatives weigh more (LLaVE, arXiv:2503.04812, equation 5: 9 on those of other rows; EmbeddingGemma,
            arXiv:2509.20354: 5 on the row's own hard negatives).
        hardness_of: The negatives that it is added to: `all`, `in_batch` (those of other rows), or `hard` (the row's
            own hard negatives).

    Deviations:
        A candidate with the text of the anchor or of one of its positives is masked (`Batch.text_id`); in the authors'
        program it is a negative. The published corpora have hardly any duplicates.

    Source: princeton-nlp/SimCSE, simcse/models.py, cl_forward.
    """

    weighs_rows = True

    def __init__(
        self,
        *,
        temperature: float = 0.05,
        hard_negative_weight: float = 0.0,
        hardness: float = 0.0,
        hardness_of: Hardness = "all",
    ) -> None:
        super().__init__()
        require_positive("objective", temperature=temperature)
        require_at_least(0, "objective", hardness=hardness)
        self.temperature, self.hard_negative_weight = temperature, hard_negative_weight
        self.hardness, self.hardness_of = hardness, hardness_of

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        if self.hardness:
            result = by_anchor(views, batch, self._hardened)
        else:
            result = info_nce(views, batch, self.temperature, hard_negative_weight=self.hard_negative_weight)
        return LossOutput(result.loss, {"skipped": result.skipped.float()})

    def _hardened(self, pairs: InBatch) -> Contrast:
        """The contrast of some anchors, with the biases of harder negatives."""
        logits = pairs.similarity / self.temperature  # (A, N)
        bias = pairs.own_negative * self.hard_negative_weight
        bias = bias + self.hardness * harder(pairs.similarity, pairs.positive, pairs.own_negative, self.hardness_of)
        return contrast(logits, pairs.positive, mask=pairs.mask, bias=bias, weight=pairs.weight)


def harder(similarity: Tensor, positive: Tensor, own_negative: Tensor, of: Hardness) -> Tensor:
    """(A, N) what hardness 1 adds to the logits, of the fields of `InBatch`; see `SimCSE`."""
    others = 1 - positive - own_negative  # (A, N) candidates of other rows
    chosen = {"all": 1 - positive, "in_batch": others, "hard": own_negative}[of]
    return similarity.detach() * chosen
