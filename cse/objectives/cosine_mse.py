"""Cosine distillation: the cosines of a row's texts follow those of a teacher (sentence-transformers)."""

from __future__ import annotations

from cse.batch import Batch, LossOutput, Views, can_read
from cse.interfaces import StepContext
from cse.objectives.parts.functional import weighted_mean
from cse.objectives.parts.taught import Taught, student_scores, teacher_scores

ROUNDING = 1e-3  # by which a teacher's cosine may exceed 1


class CosineMSE(Taught):
    """Regression of the cosines of a row's texts on those of a teacher.

        L = mean_ik ( cos(u_i, v_ik) - t_ik )^2

    u is the anchor, v its positives and hard negatives, and t the teacher's cosine of the same two texts, which may be
    negative. For pairs it is the loss of `CLAIF`, whose scores lie in [0, 1] and mean a similarity that people grade.
    No text of another row takes part. Rows have equal numbers of texts.

    Args:
        teacher: A teacher that is asked in training. None: the columns of the data (`data.teacher_columns`), a cosine
            for each text besides the anchor, as `cse teach` writes them for encoders.

    Source: UKPLab/sentence-transformers, losses/CosineSimilarityLoss.py.
    """

    contrasts = False
    weighs_rows = True

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        cosine = student_scores(views, batch, "cosine", "CosineMSE")  # (B, P + K)
        given = teacher_scores(self.teacher, batch, ctx, "CosineMSE")  # (B, P + K)
        if given.shape != cosine.shape:
            raise ValueError(
                "CosineMSE needs a cosine of the teacher for each text besides the anchor; "
                f"a row has {cosine.shape[1]}, and Batch.teacher {given.shape[1]} numbers"
            )
        if can_read(given) and bool((given.abs() > 1 + ROUNDING).any()):
            raise ValueError(
                f"CosineMSE needs cosines in [-1, 1]; Batch.teacher ranges from {given.min():g} to {given.max():g}. "
                "MarginMSE and ListwiseKL take scores on any scale"
            )
        loss = weighted_mean((cosine - given).square().mean(1), batch.weight)
        return LossOutput(loss, {"rmse": loss.detach().sqrt()})
