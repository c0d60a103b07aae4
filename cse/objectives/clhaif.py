"""CLHAIF: supervised contrast softened by AI feedback (Cheng et al., Findings of ACL 2023, arXiv:2305.01918)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from cse.batch import Batch, LossOutput, Views
from cse.errors import Positive
from cse.interfaces import Objective, StepContext
from cse.objectives.parts.candidates import InBatch, by_anchor
from cse.objectives.parts.functional import Contrast, contrast


class CLHAIF(Objective):
    """Supervised SimCSE on triplets whose positives carry a score of how similar they really are.

        L = - mean_i sum_j q_ij log softmax(X_i)_j,    X as in `SimCSE`

        positive:  q_ii = y_i, and 0 elsewhere             (a factor of the row's loss)
        all:       q_ii = y_i, and (1 - y_i)/(N - 1) on each of the N - 1 others
        none:      q_ii = 1                                (SimCSE)

    People say which sentence is entailed, and a language model says how similar it is ("soft labels" in the paper).
    Rows have one positive, and y is in [0, 1].

    Args:
        temperature: t, dimensionless, > 0 (paper: 0.05).
        hard_negative_weight: Added to the logit of the row's own hard negatives, as in `SimCSE`.
        smooth: The entries that are softened (run_clhaif_simcse.sh: positive).

    Deviations:
        The mean is over the rows of all processes; the authors' program divides by the rows of one process, which DDP's
        averaging cancels. With `all` and a score of 0 the positive has no mass; theirs gives it the mass of another
        candidate. Duplicate texts are masked as in `SimCSE`, and N counts the candidates that remain. Neither program
        reads the negative's score in their file.

    Source: xiami2019/CLAIF, simcse/models.py:164-239.
    """

    requires = frozenset({"score"})
    weighs_rows = True

    temperature: Positive = 0.05
    hard_negative_weight: float = 0.0
    smooth: Literal["positive", "all", "none"] = "positive"

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        score = batch.require_score("CLHAIF")  # (B,)
        if views.positive.shape[1] != 1:
            raise ValueError(f"CLHAIF needs one positive per row, as a score has; got {views.positive.shape[1]}")

        def loss(pairs: InBatch) -> Contrast:
            own = score[pairs.row]  # (A,)
            return contrast(
                pairs.similarity / self.temperature,  # (A, N)
                _soften(pairs, own) if self.smooth == "all" else pairs.positive,
                mask=pairs.mask,
                bias=pairs.own_negative * self.hard_negative_weight,
                row_weight=own if self.smooth == "positive" else None,
                weight=pairs.weight,
            )

        return by_anchor(views, batch, loss).output()


def _soften(pairs: InBatch, score: Tensor) -> Tensor:
    """(A, N) rows that sum to 1: the score on the positive, and the rest spread evenly over the other candidates."""
    present = torch.ones_like(pairs.similarity) if pairs.mask is None else pairs.mask.to(pairs.similarity.dtype)
    others = (present.sum(1) - 1).clamp_min(1)  # (A,)
    rest = ((1 - score) / others)[:, None] * present
    return torch.where(pairs.positive > 0, score[:, None].to(rest.dtype), rest)
