"""SimCSE: Simple Contrastive Learning of Sentence Embeddings (Gao et al., EMNLP 2021, arXiv:2104.08821)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from cse.batch import Batch, LossOutput, Views
from cse.errors import NotNegative, Positive
from cse.interfaces import Objective, StepContext
from cse.objectives.parts.candidates import InBatch, by_anchor, info_nce
from cse.objectives.parts.functional import Contrast, contrast

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
        negatives: `all`, or `own`: a row is contrasted with its own hard negatives alone, for rows like those of a
            classification, where the texts of other rows are often as right. A source of a mixture can have it alone.
        false_negative_margin: m, >= 0: a negative with cos(z_i, z_k) > cos(z_i, z+_i) + m is left out, since it is
            probably a positive (Qwen3-Embedding, arXiv:2506.05176: 0.1). z+_i is the nearest positive of
            the row. None: every negative counts.
        focal: g, >= 0: a row's loss is multiplied by (1 - p_i)^g, with p_i = e^{-l_i}, so that easy rows count less
            (Lin et al., ICCV 2017, arXiv:1708.02002; for embeddings KaLM-Embedding-V2, arXiv:2506.20923).

    Deviations:
        A candidate with the text of the anchor or of one of its positives is masked (`Batch.text_id`); in the authors'
        program it is a negative. The published corpora have hardly any duplicates.

    Source: princeton-nlp/SimCSE, simcse/models.py, cl_forward.
    """

    weighs_rows = True

    temperature: Positive = 0.05
    hard_negative_weight: float = 0.0
    hardness: NotNegative = 0.0
    hardness_of: Hardness = "all"
    negatives: Literal["all", "own"] = "all"
    false_negative_margin: NotNegative | None = None
    focal: NotNegative = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.contrasts = self.negatives == "all"

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        if self.negatives == "own" and not views.negative.shape[1]:
            raise ValueError("SimCSE with negatives: own needs hard negatives in its rows, which have none")
        if self.hardness or self.negatives == "own" or self.false_negative_margin is not None:
            result = by_anchor(views, batch, self._chosen)
        else:
            result = info_nce(views, batch, self.temperature, hard_negative_weight=self.hard_negative_weight)
        return (result.focal(self.focal) if self.focal else result).output()

    def _chosen(self, pairs: InBatch) -> Contrast:
        """The contrast of some anchors with the negatives that count, and with the biases of harder ones."""
        logits, cosine = pairs.similarity / self.temperature, pairs.similarity.detach()  # (A, N)
        bias = pairs.own_negative * self.hard_negative_weight
        if self.hardness:
            bias = bias + self.hardness * harder(pairs.similarity, pairs.positive, pairs.own_negative, self.hardness_of)
        mask = torch.ones_like(logits, dtype=torch.bool) if pairs.mask is None else pairs.mask
        own = mask & (pairs.positive > 0)
        if self.negatives == "own":
            mask = mask & (own | (pairs.own_negative > 0))
        if self.false_negative_margin is not None:
            nearest = cosine.masked_fill(~own, -torch.inf).amax(1, keepdim=True)  # (A, 1)
            mask = mask & (own | (cosine <= nearest + self.false_negative_margin))
        return contrast(logits, pairs.positive, mask=mask, bias=bias, weight=pairs.weight)


def harder(similarity: Tensor, positive: Tensor, own_negative: Tensor, of: Hardness) -> Tensor:
    """(A, N) what hardness 1 adds to the logits, of the fields of `InBatch`; see `SimCSE`."""
    others = 1 - positive - own_negative  # (A, N) candidates of other rows
    chosen = {"all": 1 - positive, "in_batch": others, "hard": own_negative}[of]
    return similarity.detach() * chosen
