"""Alignment and uniformity as a loss (Wang and Isola, ICML 2020, arXiv:2005.10242)."""

from __future__ import annotations

from typing import Annotated

import torch

from cse.batch import Batch, LossOutput, Views
from cse.errors import NotNegative, Positive
from cse.interfaces import Objective, StepContext
from cse.objectives.parts.candidates import batch_uniformity
from cse.objectives.parts.functional import alignment


class AlignUniform(Objective):
    """Positives close together, and all texts spread over the unit sphere.

        L = a mean_i |z_i - z+_i|^alpha + b ( U(z) + U(z+) ) / 2,    U(z) = log mean_{i < j} e^{-t |z_i - z_j|^2}

    The two properties that InfoNCE has in the limit of many negatives (section 4.1), optimized directly, without a
    temperature. As a term of a `WeightedSum` beside a contrastive loss, it narrows the gap between the two sides of
    pairs ("It's Not a Modality Gap", arXiv:2405.18570). With P > 1, alignment is the mean over positives, and U the
    mean over the 1 + P views; hard negatives take no part. The mean inside the logarithm is over pairs, so the value
    depends on the batch size, and accumulated parts are not one batch. If rows have weights (`Batch.weight`), both
    means are weighted, a pair of rows by the product of its weights.

    Args:
        alpha: The power of the distance, >= 1 (authors' program: 2).
        t: The sharpness of the kernel, > 0 (authors' program: 2).
        align_weight: a, >= 0 (authors' program: 1).
        uniform_weight: b, >= 0 (authors' program: 1).

    Deviations:
        Two rows with a text in common are not a pair of U (`Batch.text_id`); in the authors' program they repel each
        other.

    Source: SsnL/align_uniform, align_uniform/__init__.py; examples/stl10/main.py:106-108.
    """

    weighs_rows = True

    alpha: Annotated[float, ">= 1"] = 2.0
    t: Positive = 2.0
    align_weight: NotNegative = 1.0
    uniform_weight: NotNegative = 1.0

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        sides = views.require_aligned("AlignUniform")  # (B, 1 + P, D')
        texts, weight = batch.text_id, batch.weight
        texts = None if texts is None else texts[:, : 1 + batch.num_positives]  # (B, 1 + P)
        align = torch.stack([alignment(sides[:, 0], other, self.alpha, weight) for other in sides[:, 1:].unbind(1)])
        uniform = torch.stack([batch_uniformity(side, self.t, texts, weight) for side in sides.unbind(1)])
        loss = self.align_weight * align.mean() + self.uniform_weight * uniform.mean()
        return LossOutput(loss, {"alignment": align.detach().mean(), "uniformity": uniform.detach().mean()})
