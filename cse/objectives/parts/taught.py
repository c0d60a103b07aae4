"""Read what a teacher says of a batch: data columns (`Batch.teacher`), or a teacher that is asked in training."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from cse.batch import Batch, Views
from cse.interfaces import Objective, StepContext, Teacher
from cse.objectives.parts.functional import normalize

Similarity = Literal["dot", "cosine"]
DOT = "The vectors were trained by their dot product: compare them by it, not by their cosine."


class Taught(Objective):
    """An objective that asks a teacher, or, without one, reads what one gave each row of the data (`Batch.teacher`)."""

    teacher: Teacher | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.teacher is None:
            self.requires |= {"teacher"}


def student_scores(views: Views, batch: Batch, similarity: Similarity, objective: str) -> Tensor:
    """(B, P + K) similarity of each anchor with its own positives and hard negatives, in float32 at least.

    Raises:
        ValueError: Rows have one view, or unequal numbers of hard negatives, which a teacher's columns cannot have.
    """
    batch.require_even(objective)
    rows = views.projected  # (B, V, D')
    if rows.shape[1] < 2:
        raise ValueError(f"{objective} compares the texts of a row; this batch has one in each")
    with torch.autocast(rows.device.type, enabled=False):
        rows = normalize(rows) if similarity == "cosine" else rows if rows.dtype == torch.float64 else rows.float()
        return (rows[:, :1] * rows[:, 1:]).sum(-1)


def teacher_scores(teacher: Teacher | None, batch: Batch, ctx: StepContext, objective: str) -> Tensor:
    """(B, C) the numbers of the columns; or (B, P + K) scores of a teacher that is asked now."""
    if teacher is None:
        return batch.require("teacher", objective)
    return teacher.scores(batch, ctx)


def teacher_vectors(teacher: Teacher | None, batch: Batch, ctx: StepContext, objective: str) -> Tensor:
    """(B, V, Dt) the teacher's vector of each view; in the columns, one after the other (B, V Dt).

    Rows of one text, which the collator repeats, have the vector of that text (B, Dt).

    Raises:
        ValueError: The columns hold no whole vector for each view.
    """
    if teacher is not None:
        return teacher.embed(batch, ctx)
    columns, views = batch.require("teacher", objective), batch.views  # (B, C)
    if batch.text_id is not None and bool((batch.text_id == batch.text_id[:, :1]).all()):
        return columns[:, None].expand(-1, views, -1)
    if columns.shape[1] % views:
        raise ValueError(
            f"{objective} needs a vector of the teacher for each of the {views} texts of a row; "
            f"Batch.teacher has {columns.shape[1]} numbers"
        )
    return columns.view(len(columns), views, -1)
