"""SciNCL: a hinge on distances to a positive and to a negative (Ostendorff et al., EMNLP 2022, arXiv:2202.06671)."""

from __future__ import annotations

from typing import Literal

import torch

from cse.batch import Batch, LossOutput, Views
from cse.errors import NotNegative
from cse.interfaces import Objective, StepContext
from cse.objectives.parts.functional import triplet, weighted_mean

LENGTH_COUNTS = "It was trained by Euclidean distance, and its vectors have any length; cosine is not its geometry."


class Triplet(Objective):
    """A hinge on how much nearer an anchor is to its positive than to its own hard negative.

        l_i = max(0, d(a_i, p_i) - d(a_i, n_i) + m)
        d(x, y) = |x - y| (euclidean),  |x - y|^2 (squared),  1 - cos(x, y) (cosine)

    The texts of other rows are not negatives, so the loss does not depend on the batch size. Of several positives and
    hard negatives of a row, each positive is compared with each negative, and the row's loss is their mean. The
    checkpoint says by which function its vectors are compared: by distance, or by cosine for the cosine form.

    SciNCL (Ostendorff et al., EMNLP 2022, arXiv:2202.06671) has the Euclidean form with margin 1, Phrase-BERT (Wang et
    al., EMNLP 2021, arXiv:2109.06304) with margin 5. StyleDistance (Patel et al., arXiv:2410.12757) has the squared
    form in its paper; the default of its trainer is the cosine form with margin 0.5. Rows have a positive and a hard
    negative.

    Args:
        distance: d.
        margin: m, in units of d, >= 0 (SciNCL: 1, Phrase-BERT: 5, both Euclidean; StyleDistance: 0.5, cosine).

    Deviations:
        A row whose hard negatives do not exist (`Batch.view_mask`) is left out of the mean, and counted. SciNCL's
        program adds 1e-6 to every coordinate of x - y, so that equal vectors have a gradient; here, as in the library
        of the other two, they have none.

    Source: malteos/scincl, gdt/models/__init__.py:40-44; sf-wa-326/phrase-bert-topic-model,
        phrase-bert/phrase_bert_finetune.py:69; datadreamer-dev/DataDreamer,
        src/trainers/train_sentence_transformer.py:367-370.
    """

    contrasts = False
    weighs_rows = True

    distance: Literal["euclidean", "squared", "cosine"] = "euclidean"
    margin: NotNegative = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.distance != "cosine":
            self.similarity, self.note = "euclidean", LENGTH_COUNTS

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        if not (views.positive.shape[1] and views.negative.shape[1]):
            raise ValueError(
                f"Triplet needs a positive and a hard negative in each row; this batch has {views.positive.shape[1]} "
                f"and {views.negative.shape[1]}"
            )
        anchor, positive, negative = views.anchor[:, None, None], views.positive[:, :, None], views.negative[:, None]
        hinges = triplet(anchor, positive, negative, distance=self.distance, margin=self.margin)  # (B, P, K)
        exists = torch.ones_like(hinges, dtype=torch.bool)
        if batch.view_mask is not None:
            exists = exists & batch.view_mask[:, None, 1 + batch.num_positives :]
        count = exists.sum((1, 2))  # (B,)
        rows = hinges.masked_fill(~exists, 0.0).sum((1, 2)) / count.clamp_min(1)  # (B,)
        some = (count > 0).to(rows.dtype)
        loss = weighted_mean(rows, some if batch.weight is None else some * batch.weight)
        active = ((hinges > 0) & exists).sum() / exists.sum().clamp_min(1)
        return LossOutput(loss, {"active": active, "skipped": (count == 0).sum().float()})
