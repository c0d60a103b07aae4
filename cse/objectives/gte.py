"""GTE: Towards General Text Embeddings with Multi-stage Contrastive Learning (Li et al., 2023, arXiv:2308.03281)."""

from __future__ import annotations

from typing import Literal, get_args

import torch

from cse.batch import Batch, LossOutput, Views
from cse.errors import UserError, require_at_least, require_positive
from cse.interfaces import Objective, StepContext
from cse.objectives.candidates import all_pairs, in_batch
from cse.objectives.functional import contrast
from cse.objectives.simcse import Hardness, hardness_bias

Direction = Literal["query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc"]


class GTE(Objective):
    """One softmax over the candidates of both texts of a row: as GTE was trained.

        l_i = - log e^{s(q_i, d_i)} / sum_j ( e^{s(q_i, d_j)} + e^{s(q_i, n_j)} + [j != i] e^{s(q_i, q_j)}
                                              + e^{s(q_j, d_i)} + [j != i] ( e^{s(d_j, d_i)} + e^{s(n_j, d_i)} ) )

    The paper's improved contrastive loss. The pair itself occurs twice in the denominator. If rows have
    weights (`Batch.weight`), the mean over rows is weighted.

    Args:
        temperature: t, dimensionless, > 0 (paper: 0.01; sentence-transformers: 0.05).
        directions: The sums of the denominator, by the names that sentence-transformers gives them. None: all four.
        hardness: The hardness of `SimCSE`, on the first two sums.
        hardness_of: The negatives that have it, named as in `SimCSE`.

    Raises:
        UserError: The temperature is not positive, the hardness is negative, or `query_to_doc` is not a direction.
        ValueError: Rows do not have one positive, or a batch has no in-batch negatives.

    Deviations:
        Hard negatives, which the paper's formula does not have, join as documents of their row, as in
        sentence-transformers. Duplicate texts are masked as in `SimCSE`.

    Source: UKPLab/sentence-transformers, losses/multiple_negatives_ranking.py (four directions, joint).
    """

    weighs_rows = True

    def __init__(
        self,
        *,
        temperature: float = 0.01,
        directions: list[Direction] | None = None,
        hardness: float = 0.0,
        hardness_of: Hardness = "all",
    ) -> None:
        super().__init__()
        if directions is not None and "query_to_doc" not in directions:
            raise UserError(f"objective.directions is {directions}\nfix: add query_to_doc, which holds the pair itself")
        self.directions = list(directions or get_args(Direction))
        require_positive("objective", temperature=temperature)
        require_at_least(0, "objective", hardness=hardness)
        self.temperature, self.hardness, self.hardness_of = temperature, hardness, hardness_of

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        """The mean loss of the batch's rows."""
        if views.positive.shape[1] != 1:
            raise ValueError(f"GTE needs one positive per row; got {views.positive.shape[1]}")
        pairs, first, size = all_pairs(views, batch), in_batch(views, batch), len(views.anchor)
        own = pairs.item[:size, None] == pairs.item[None, size:]  # (B, B + B K) documents of the row itself
        present = pairs.mask.clone()
        present[size:, size:] &= ~own
        queries, documents = slice(0, size), slice(size, None)
        places = {
            "query_to_doc": (queries, documents),
            "query_to_query": (queries, queries),
            "doc_to_query": (documents, queries),
            "doc_to_doc": (documents, documents),
        }
        blocks = [place for name, place in places.items() if name in self.directions]  # query_to_doc comes first
        cosine, mask = (torch.cat([t[place] for place in blocks], 1) for t in (pairs.similarity, present))  # (B, N)
        bias, target = torch.zeros_like(cosine), torch.zeros_like(cosine)
        bias[:, : own.shape[1]] = hardness_bias(first, self.hardness, self.hardness_of)
        target[:, : own.shape[1]] = first.positive
        result = contrast(cosine / self.temperature, target, mask=mask, bias=bias, weight=batch.weight)
        return LossOutput(result.loss, {"skipped": result.skipped.float()})
