"""Symmetric InfoNCE: contrast in both directions, as in Jina Embeddings 2 (Günther et al., 2023, arXiv:2310.19923)."""

from __future__ import annotations

from cse.batch import Batch, LossOutput, Views
from cse.interfaces import Objective, StepContext
from cse.objectives.parts.candidates import swapped
from cse.objectives.simcse import Hardness, SimCSE


class SymmetricInfoNCE(Objective):
    """SimCSE from anchor to positive and from positive to anchor, averaged.

        L = 1/2 ( CE(a_i -> p_i against all p_j and n_j) + CE(p_i -> a_i against all a_j) )

    Hard negatives are candidates of the anchors alone. It is MultipleNegativesSymmetricRankingLoss of
    sentence-transformers, whose cached form is `trainer.chunk_size` here. Rows have one positive.

    Args:
        temperature: t, dimensionless, > 0 (sentence-transformers: 0.05).
        hardness: The hardness of `SimCSE`, from anchor to positive.
        hardness_of: The negatives that have it, named as in `SimCSE`.

    Source: UKPLab/sentence-transformers, losses/multiple_negatives_ranking.py (both directions, per direction).
    """

    weighs_rows = True

    temperature: float = 0.05
    hardness: float = 0.0
    hardness_of: Hardness = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.there = SimCSE(temperature=self.temperature, hardness=self.hardness, hardness_of=self.hardness_of)
        self.back = SimCSE(temperature=self.temperature)

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        there, back = self.there(views, batch, ctx), self.back(*swapped(views, batch), ctx)
        return LossOutput((there.loss + back.loss) / 2, there.metrics)
