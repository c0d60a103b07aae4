"""GTE: Towards General Text Embeddings with Multi-stage Contrastive Learning (Li et al., 2023, arXiv:2308.03281)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F

from cse.batch import Batch, LossOutput, Views
from cse.errors import NotNegative, Positive, UserError
from cse.interfaces import Objective, StepContext
from cse.objectives.parts.candidates import AllPairs, by_pair
from cse.objectives.parts.functional import Contrast, contrast
from cse.objectives.simcse import Hardness, harder

Direction = Literal["query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc"]


class GTE(Objective):
    """One softmax over the candidates of both texts of a row: as GTE was trained.

        l_i = - log e^{s(q_i, d_i)} / sum_j ( e^{s(q_i, d_j)} + e^{s(q_i, n_j)} + [j != i] e^{s(q_i, q_j)}
                                              + e^{s(q_j, d_i)} + [j != i] ( e^{s(d_j, d_i)} + e^{s(n_j, d_i)} ) )

    The paper's improved contrastive loss. The pair itself occurs twice in the denominator. Rows have one positive.

    Args:
        temperature: t, dimensionless, > 0 (paper: 0.01; sentence-transformers: 0.05).
        directions: The sums of the denominator, by the names that sentence-transformers gives them. None: all four.
        hardness: The hardness of `SimCSE`, on the first two sums.
        hardness_of: The negatives that have it, named as in `SimCSE`.

    Deviations:
        Hard negatives, which the paper's formula does not have, join as documents of their row, as in
        sentence-transformers.

    Source: UKPLab/sentence-transformers, losses/multiple_negatives_ranking.py (four directions, joint).
    """

    weighs_rows = True

    temperature: Positive = 0.01
    directions: list[Direction] | None = None
    hardness: NotNegative = 0.0
    hardness_of: Hardness = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.directions is not None and "query_to_doc" not in self.directions:
            raise UserError(
                f"objective.directions is {self.directions}\nfix: add query_to_doc, which holds the pair itself"
            )
        self.directions = list(self.directions or get_args(Direction))

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        return by_pair(views, batch, self._rows).output()

    def _rows(self, queries: AllPairs, documents: AllPairs) -> Contrast:
        """The loss of some rows, given the candidates (R, N) of their queries and of their documents."""
        assert self.directions is not None  # `__post_init__` chose them
        size = queries.texts // 2  # B
        asked, answers = slice(0, size), slice(size, None)  # the columns of queries, and of documents
        own = queries.item[queries.view, None] == queries.item  # (R, N) the texts of the row itself
        documents.mask[:, answers] &= ~own[:, answers]
        places = {
            "query_to_doc": (queries, answers),
            "query_to_query": (queries, asked),
            "doc_to_query": (documents, asked),
            "doc_to_doc": (documents, answers),
        }
        blocks = [place for name, place in places.items() if name in self.directions]  # query_to_doc comes first
        cosine = torch.cat([pairs.similarity[:, columns] for pairs, columns in blocks], 1)  # (R, M) all candidates
        mask = torch.cat([pairs.mask[:, columns] for pairs, columns in blocks], 1)  # (R, M)
        positive = queries.positive[:, answers]  # (R, N - B)
        negative = own[:, answers].to(positive.dtype) - positive  # (R, N - B) 1 at the row's hard negatives
        bias = self.hardness * harder(queries.similarity[:, answers], positive, negative, self.hardness_of)
        rest = (0, cosine.shape[1] - bias.shape[1])
        target, bias = F.pad(positive, rest), F.pad(bias, rest)  # (R, M)
        return contrast(cosine / self.temperature, target, mask=mask, bias=bias, weight=queries.weight)
