"""An objective on some views of each row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from cse.batch import Batch, LossOutput, Views
from cse.errors import UserError
from cse.interfaces import Objective, StepContext
from cse.objectives.parts.wrapper import Wrapper


class OfViews(Wrapper):
    """A term that sees some of the views of each row, and nothing of the others.

        L = L_term( z_iv of all rows i and of the views v )

    So one batch serves several terms (`WeightedSum`): a contrast of two views, and a teacher's opinion of a third one
    that is in another template (`cse.data.InTemplates`). The first of its views is the anchor; of the others, hard
    negatives stay that, behind the positives. Numbers of a teacher in the data (`Batch.teacher`) stay whole.

    Args:
        term: The objective.
        views: The views, counted from 0, in their order.
    """

    needs_vectors = False

    term: Objective
    views: Sequence[int]

    def __post_init__(self) -> None:
        if not self.views or min(self.views) < 0 or len(set(self.views)) < len(self.views):
            raise UserError(f"objective.views is {list(self.views)}\nfix: name views once each, counted from 0")
        super().__post_init__()

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        if max(self.views) >= batch.views:
            raise ValueError(f"objective.views names view {max(self.views)}, and rows have {batch.views}, from 0")
        first, *others = self.views
        positives = [view for view in others if view <= batch.num_positives]
        chosen = [first, *positives, *(view for view in others if view > batch.num_positives)]
        every = (views.projected, views.embedding)  # (B, V, D'), (B, V, D)
        cut, whole = (torch.stack([v[:, view] for view in chosen], 1) for v in every)
        part = Views.split(cut, whole, len(positives))
        rows = replace(batch.with_views(chosen), num_positives=len(positives))
        if batch.relevance is not None:  # of positives to view 0
            kept = None if 0 in positives else batch.relevance[:, [view - 1 for view in positives]]  # (B, P)
            rows = replace(rows, relevance=kept)
        return self.term(part, rows, ctx)
