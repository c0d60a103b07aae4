"""Training for quantized vectors, straight through the rounding (Bengio et al., 2013, arXiv:1308.3432)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from cse.batch import Batch, LossOutput, Views
from cse.encoder.model import Encoder
from cse.errors import NotNegative
from cse.interfaces import Objective, StepContext
from cse.objectives.parts.functional import normalize
from cse.objectives.parts.wrapper import Wrapper

STEPS = 127  # of int8, from 0 to the largest value


class Quantized(Wrapper):
    """The loss of an objective on the vectors, and on what is left of them after quantization.

        L = L(z) + c L(q(z)),    binary: q(z) = sign(z) / sqrt(D),    int8: q(z) = s round(z / s), s = max_d |z_d| / 127

    Vectors z have unit length. The gradient passes q as if it were the identity, as in pplx-embed (arXiv:2602.11151),
    whose vectors are int8 and binary. `cse encode --quantize` writes such vectors. The encoder has no head that serves
    training only.

    Args:
        term: The objective. It must have no weights of its own.
        kind: `binary`, or `int8`.
        weight: c, >= 0.

    Deviations:
        The step of int8 is that of a vector; `cse.quantize` takes the range of each dimension.
    """

    changes_vectors = True

    term: Objective
    kind: Literal["binary", "int8"] = "binary"
    weight: NotNegative = 1.0

    def setup(self, encoder: Encoder) -> None:
        self.check_exported(encoder, "rounds the vectors")
        super().setup(encoder)

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        whole = self.term(views, batch, ctx)
        rounded = self.term(views.mapped(lambda z: self._rounded(normalize(z))), batch, ctx)
        metrics = {"loss_whole": whole.loss.detach(), f"loss_{self.kind}": rounded.loss.detach()}
        return LossOutput(whole.loss + self.weight * rounded.loss, metrics | dict(whole.metrics))

    def _rounded(self, z: Tensor) -> Tensor:
        """Round unit vectors (..., D), with the gradient of the identity."""
        if self.kind == "binary":
            found = torch.where(z > 0, 1.0, -1.0) / math.sqrt(z.shape[-1])
        else:
            step = z.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(z.dtype).tiny) / STEPS
            found = (z / step).round() * step
        return z + (found - z).detach()
