"""CompCSE: Composition-contrastive Learning (Chanchani and Huang, ACL 2023, arXiv:2307.07380)."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from cse.batch import Batch, LossOutput, Views
from cse.errors import Count, Positive
from cse.interfaces import Objective, StepContext
from cse.objectives.parts.candidates import info_nce


class CompCSE(Objective):
    """In-batch contrast of each text with the composition of its two parts, on the first dimensions of their vectors.

        l_i = - log e^{cos(z_i, c_i)/t} / sum_j e^{cos(z_i, c_j)/t}
        z   = g(h)[:d],   c = g((h_left + h_right) / 2)[:d]

    h are the embeddings that the encoder exports, and g is its head, which serves training only. Vectors are composed
    before the head and cut after it; a checkpoint encodes whole texts at full width. A row has three texts: the whole
    and its two parts, as `cse.data.Halves` makes them of one text.

    Args:
        temperature: t, dimensionless, > 0 (paper: 0.05).
        dimensions: d, >= 1, the number of first dimensions to compare; a narrower vector is compared whole (authors'
            command for BERT-base: 256).
        composition: `mean` averages the vectors of the parts (authors: BERT). `halves` joins the first half of the left
            vector and the second half of the right one (authors: RoBERTa).

    Deviations:
        Rows of equal texts (`Batch.text_id`) are not each other's negatives. The authors' program takes the negatives
        of each process alone, here of all. It fixes the halves by the model's name, at 384 or 512 numbers; its third
        composition, a maximum, stops with an error and is left out.

    Source: perceptiveshawty/CompCSE, compcse/models.py:65-90, 158-172.
    """

    weighs_rows = True

    temperature: Positive = 0.05
    dimensions: Count = 256
    composition: Literal["mean", "halves"] = "mean"

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        if batch.views != 3:
            raise ValueError(
                f"CompCSE needs a text and its two parts in each row; this batch has {batch.views} texts. "
                "Set collator to cse.data.Halves"
            )
        batch.require_even("CompCSE")
        whole, left, right = views.embedding.unbind(1)  # (B, D) each
        z = ctx.encoder.head(torch.stack([whole, self.composed(left, right)], 1))[..., : self.dimensions]  # (B, 2, d)
        # Two rows may share a part: what masks a candidate is the text that it is composed of.
        pair = replace(batch.with_views([0, 0]), num_positives=1)
        return info_nce(Views.split(z, views.embedding, 1), pair, self.temperature).output()

    def composed(self, left: Tensor, right: Tensor) -> Tensor:
        """(B, D) of the vectors of the parts, each (B, D)."""
        if self.composition == "mean":
            return (left + right) / 2
        half = left.shape[-1] // 2
        return torch.cat([left[:, :half], right[:, half:]], -1)
