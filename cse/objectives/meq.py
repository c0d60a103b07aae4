"""MEQ: questions that a small edit gives another answer (Zhang et al., TACL 2023, arXiv:2305.14441)."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import torch

from cse.batch import Batch, LossOutput, Views
from cse.errors import NotNegative
from cse.interfaces import Objective, StepContext
from cse.objectives.parts.candidates import info_nce
from cse.objectives.parts.functional import dot_matrix, paired_distance, triplet, weighted_mean
from cse.objectives.parts.taught import DOT

EDITS = 2  # views at the end of a row: q+ and q-


class DPR(Objective):
    """A question finds its passage among the passages of all rows, by dot product (Karpukhin et al., EMNLP 2020).

        L = -log e^{q_i . p_i} / sum_j ( e^{q_i . p_j} + sum_k e^{q_i . n_jk} )

    arXiv:2004.04906, equation 2: no temperature, and vectors keep their length. Each row has its hard passages n_k.
    Rows have one positive.

    Args:
        hard: Number of hard passages of a row, >= 0; views after them are not passages, such as the edited questions
            of `MEQ`. None: all views after the positive.

    Deviations:
        One encoder reads questions and passages, which prompts may tell apart (`collator.prompts`); the authors train
        two.

    Source: ytyz1307zzh/Minimally_Edited_Questions, dpr/models/biencoder.py:400-520, after facebookresearch/DPR.
    """

    weighs_rows = True
    note = DOT

    hard: Annotated[int, ">= 0"] | None = None

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        positives, negatives = views.positive.shape[1], views.negative.shape[1]
        hard = negatives if self.hard is None else self.hard
        if positives != 1 or negatives < hard:
            raise ValueError(f"DPR needs a positive and {hard} hard passages; rows have {positives} and {negatives}")
        passages = replace(views, negative=views.negative[:, :hard])
        return info_nce(passages, batch.with_views(range(2 + hard)), 1.0, similarity=dot_matrix).output()


class MEQ(Objective):
    """A question is nearer to its paraphrase q+ than to its minimal edit q-, which has another answer.

        contrastive   L_q = -log e^{q_i . q+_i} / sum_j ( e^{q_i . q+_j} + e^{q_i . q-_j} )
        hinge         L_q = max(0, m - q_i . q+_i + q_i . q-_i)
        dot           L_q = q_i . q-_i

    The term beside `DPR` in a `WeightedSum`: L = L_DPR + w L_q. A row is a question, its passages, and at the end q+
    and q-, compared by dot product without temperature. The edited questions of all rows are candidates. Rows without a
    paraphrase, or for the hinge and the dot product without either of the two (`Batch.view_mask`), join `DPR` only.

    Args:
        form: The name of L_q. `contrastive` ranks best (paper: w 0.5, from the sixth epoch on), `dot` retrieves best
            (w 0.03; 0.003 for a large encoder). `dot` is unbounded below.
        margin: m of the hinge, >= 0 (authors' program: 1).

    Deviations:
        The abstract has q- of the own row as the only negative; the program, followed here, has all edited questions.
        The paraphrase and the edit have the prompt of hard negatives, if the encoder has prompts.

    Source: ytyz1307zzh/Minimally_Edited_Questions, dpr/models/biencoder.py:400-520, train_dense_encoder.py:466-479.
    """

    weighs_rows = True
    note = DOT

    form: Literal["contrastive", "hinge", "dot"] = "contrastive"
    margin: NotNegative = 1.0

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        positives, others = views.positive.shape[1], views.negative.shape[1]
        if positives != 1 or others < EDITS:
            raise ValueError(
                f"MEQ needs rows of a question, a positive, and at the end a paraphrase and an edit of the question; "
                f"rows have {positives} positives and {others} texts after them"
            )
        edits = views.negative[:, -EDITS:]  # (B, 2, D')
        own = batch.with_views([0, batch.views - 2, batch.views - 1])
        if self.form == "contrastive":
            questions = replace(views, positive=edits[:, :1], negative=edits[:, 1:])
            result = info_nce(questions, own, 1.0, similarity=dot_matrix)
            return LossOutput(result.loss, {"edited": (len(edits) - result.skipped).float()})
        plus, minus = edits.unbind(1)
        if self.form == "dot":
            rows = -paired_distance(views.anchor, minus, "dot")  # (B,)
        else:
            rows = triplet(views.anchor, plus, minus, distance="dot", margin=self.margin)  # (B,)
        present = torch.ones_like(rows) if own.view_mask is None else own.view_mask[:, 1:].all(1).to(rows.dtype)
        weight = present if batch.weight is None else present * batch.weight
        return LossOutput(weighted_mean(rows, weight), {"edited": present.sum()})
