"""Margin-MSE: distances to a positive learn a cross-encoder's margins (Hofstätter et al., 2020, arXiv:2010.02666)."""

from __future__ import annotations

from cse.batch import Batch, LossOutput, Views
from cse.interfaces import StepContext
from cse.objectives.parts.functional import weighted_mean
from cse.objectives.parts.taught import DOT, Similarity, Taught, student_scores, teacher_scores


class MarginMSE(Taught):
    """Regression of the margin between a positive and a hard negative on the margin that a teacher gives them.

        L = mean_ik ( ( s(q_i, p_i) - s(q_i, n_ik) ) - ( t(q_i, p_i) - t(q_i, n_ik) ) )^2

    s is the student's similarity and t the teacher's score of a pair of texts, on any scale. A constant that is added
    to a row's scores changes nothing, so no temperature is needed, and no text of another row is a negative. Rows have
    one positive and equal numbers of hard negatives.

    Args:
        teacher: A teacher that is asked in training, whose cosines are t. None: the columns of the data
            (`data.teacher_columns`): the 1 + K scores of the positive and of the hard negatives, as `cse teach` writes
            them, or the K margins.
        compare: The function s: `dot` as in the paper, or `cosine`, whose margins lie in [-2, 2].

    Source: UKPLab/sentence-transformers, losses/margin_mse.py.
    """

    contrasts = False
    weighs_rows = True

    compare: Similarity = "dot"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.note = DOT if self.compare == "dot" else ""

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        negatives = views.negative.shape[1]
        if views.positive.shape[1] != 1 or not negatives:
            raise ValueError("MarginMSE needs rows of an anchor, one positive and hard negatives")
        scores = student_scores(views, batch, self.compare, "MarginMSE")  # (B, 1 + K)
        given = teacher_scores(self.teacher, batch, ctx, "MarginMSE")  # (B, 1 + K) or (B, K)
        if given.shape[1] not in {negatives, 1 + negatives}:
            raise ValueError(
                f"MarginMSE needs the teacher's {1 + negatives} scores of the positive and the hard negatives of a "
                f"row, or {negatives} margins; Batch.teacher has {given.shape[1]} numbers"
            )
        wanted = given if given.shape[1] == negatives else given[:, :1] - given[:, 1:]  # (B, K)
        margins = scores[:, :1] - scores[:, 1:]  # (B, K)
        loss = weighted_mean((margins - wanted).square().mean(1), batch.weight)
        agreed = (margins.detach().sign() == wanted.sign()).float().mean()
        return LossOutput(loss, {"rmse": loss.detach().sqrt(), "agreed": agreed})
