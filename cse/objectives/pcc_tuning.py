"""Pcc-tuning: Pearson's correlation as the loss of scored pairs (Zhang and Li, EMNLP 2024, arXiv:2406.09790)."""

from __future__ import annotations

import torch

from cse.batch import Batch, LossOutput, Views
from cse.interfaces import Objective, StepContext, Teacher
from cse.objectives.parts.taught import student_scores, teacher_scores


class PccTuning(Objective):
    """One minus Pearson's correlation of the cosines of pairs with their scores, over the pairs of a batch.

        L = 1 - r( c, y ),    r(c, y) = sum_i (c_i - mean c)(y_i - mean y) / ( |c - mean c| |y - mean y| )

    c_i are the cosines of each anchor with each of the other texts of its row, and y_i their scores: graded
    similarities, as in the second stage of the paper, or the opinion of a teacher. The loss does not change if scores
    are multiplied or shifted, so any scale will do, and the student keeps its own; `CosineMSE` would move its cosines.
    Terms with several teachers (`WeightedSum`) add up in units of their deviation. Rows have equal numbers of texts,
    and a batch has three pairs or more.

    Args:
        teacher: A teacher that is asked in training. None: the scores of the data (`Batch.score`), for pairs.

    Deviations:
        The authors' program divides by deviations with n - 1 and averages over n, so its r is (n - 1)/n times this one.
        Scores that are all equal have no correlation: the loss is 1, without a gradient.

    Source: ZBWpro/Pcc-tuning, code/tune.py, class PearsonCorrelationLoss.
    """

    contrasts = False

    teacher: Teacher | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.teacher is None:
            self.requires = frozenset({"score"})

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        cosine = student_scores(views, batch, "cosine", "PccTuning")  # (B, P + K)
        if self.teacher is None:
            views.require_pair("PccTuning")
            given = batch.require("score", "PccTuning")[:, None]  # (B, 1)
        else:
            given = teacher_scores(self.teacher, batch, ctx, "PccTuning")  # (B, P + K)
        if cosine.numel() < 3:
            raise ValueError(
                f"PccTuning correlates the pairs of a batch, and two always agree; it has {cosine.numel()}"
            )
        given = given.to(cosine.dtype)
        c, y = ((x - x.mean()).flatten() for x in (cosine, given))
        y = torch.where(given.max() > given.min(), y, 0.0)  # the mean of equal scores may be another number
        y = y / y.norm().clamp_min(torch.finfo(y.dtype).tiny)  # first, or tiny would divide a gradient
        spread = c.norm().clamp_min(torch.finfo(c.dtype).eps)  # equal cosines have a gradient all the same
        r = (c * y).sum() / spread
        return LossOutput(1 - r, {"correlation": r.detach()})
