"""Listwise distillation: the softmax over a row's texts follows a teacher's (Lin et al., 2020, arXiv:2010.11386)."""

from __future__ import annotations

from cse.batch import Batch, LossOutput, Views
from cse.errors import Positive
from cse.interfaces import StepContext
from cse.objectives.parts.functional import kl_rows, weighted_mean
from cse.objectives.parts.taught import DOT, Similarity, Taught, student_scores, teacher_scores


class ListwiseKL(Taught):
    """Kullback-Leibler divergence of a student's softmax over the texts of a row from that of a teacher.

        L = T_s^2 mean_i KL( softmax(t_i / T_t) || softmax(s_i / T_s) )

    s_i are the student's similarities of anchor i with its own positives and hard negatives, and t_i the teacher's
    scores of the same pairs, on any scale. No text of another row takes part. A constant that is added to a row's
    scores changes nothing. With T_t -> 0 the teacher only names the best text, and the loss is InfoNCE over the row.
    Rows have equal numbers of texts, two or more besides the anchor.

    Args:
        teacher: A teacher that is asked in training, whose cosines are t. None: the columns of the data
            (`data.teacher_columns`), a score for each positive and hard negative, as `cse teach` writes them.
        compare: The function s, `dot` or `cosine`.
        student_temperature: T_s, dimensionless, > 0 (sentence-transformers: 1; for cosines, 0.05).
        teacher_temperature: T_t, on the scale of the teacher's scores, > 0 (sentence-transformers: 1).

    Source: UKPLab/sentence-transformers, losses/distill_kl_div.py.
    """

    contrasts = False
    weighs_rows = True

    compare: Similarity = "dot"
    student_temperature: Positive = 1.0
    teacher_temperature: Positive = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.note = DOT if self.compare == "dot" else ""

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        scores = student_scores(views, batch, self.compare, "ListwiseKL")  # (B, P + K)
        given = teacher_scores(self.teacher, batch, ctx, "ListwiseKL")  # (B, P + K)
        if scores.shape[1] < 2 or given.shape != scores.shape:
            raise ValueError(
                f"ListwiseKL needs a score of the teacher for each of two or more texts besides the anchor; a row has "
                f"{scores.shape[1]}, and {given.shape[1]} scores"
            )
        rows = kl_rows(scores / self.student_temperature, given / self.teacher_temperature)  # (B,)
        loss = self.student_temperature**2 * weighted_mean(rows, batch.weight)
        agreed = (scores.detach().argmax(1) == given.argmax(1)).float().mean()
        return LossOutput(loss, {"agreed": agreed})
