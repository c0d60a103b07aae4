"""PEARL: embeddings of phrases, with their types (Chen et al., Findings of EACL 2024, arXiv:2401.10407)."""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from torch import Tensor, nn

from cse.batch import Batch, LossOutput, Views
from cse.encoder.heads import in_float32
from cse.encoder.model import Encoder
from cse.errors import Positive
from cse.interfaces import Objective, StepContext
from cse.objectives.parts.candidates import AllPairs, by_view
from cse.objectives.parts.functional import Contrast, contrast, weighted_mean


class PEARL(Objective):
    """NT-Xent of a phrase and its augmentation, and the type of the phrase told from each of them.

        L = 1/(2B) sum_a -log e^{cos(z_a, z_p)/t} / sum_{k != a} e^{cos(z_a, z_k)/t} + CE(W x + b, c) + CE(W x' + b, c)

    Every one of the 2B vectors is an anchor a, p is the other view of its row, and k runs over all others. x and x' are
    the vectors of a phrase and of its augmentation, not normalized, and c is the type of the phrase (`Batch.label`).
    The head W, b serves training only. The hard negatives of a phrase are rows of the batch with a view and a type of
    their own, which the sampler `NegativesAsRows` puts there; hard negatives in a row's own texts are candidates
    without a type. Rows have one positive.

    Args:
        types: Number of types, which labels count from 0, >= 2 (paper: 95).
        temperature: t, dimensionless, > 0 (authors' program: 0.07).

    Deviations:
        The mean of initial and trained weights leaves the head out, since no checkpoint has it; the authors' program
        averages it with a fresh one.

    Source: tigerchen52/PEARL, source/loss.py:23-37, source/main.py:84-88.
    """

    requires = frozenset({"label"})
    weighs_rows = True

    types: Annotated[int, ">= 2"] = 95
    temperature: Positive = 0.07

    def __post_init__(self) -> None:
        super().__post_init__()
        self.labels = self.types

    def setup(self, encoder: Encoder) -> None:
        self.head = nn.Linear(encoder.dim, self.types)

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        label = batch.require("label", type(self).__name__)  # (B,)
        if views.positive.shape[1] != 1:
            raise ValueError(f"PEARL compares two views of a phrase; rows have {1 + views.positive.shape[1]}")
        ntxent = by_view(views, batch, self._rows).loss
        of_text, of_view = (self._type_loss(x, label, batch.weight) for x in (views.anchor, views.positive[:, 0]))
        types = of_text + of_view
        return LossOutput(ntxent + types, {"ntxent": ntxent.detach(), "type_loss": types.detach()})

    def _rows(self, pairs: AllPairs) -> Contrast:
        logits = pairs.similarity / self.temperature  # (A, N)
        return contrast(logits, pairs.positive, mask=pairs.mask, weight=pairs.weight)

    def _type_loss(self, x: Tensor, label: Tensor, weight: Tensor | None) -> Tensor:
        """() the cross-entropy of the types (B,) of vectors (B, D')."""
        logits = in_float32(self.head, x)  # (B, types)
        return weighted_mean(F.cross_entropy(logits, label, reduction="none"), weight)
