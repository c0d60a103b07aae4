"""Several teachers as one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cse.batch import Batch
from cse.encoder.model import Encoder
from cse.errors import UserError, require_positive
from cse.interfaces import StepContext, Teacher


class Ensemble(Teacher):
    """The mean of the vectors of several teachers, each of length 1, scaled to length 1 again.

        t = unit( sum_k weight_k unit(t_k) )

    Vectors of different sizes stand side by side instead, each times the square root of its weight, so that a cosine is
    the weighted mean of the teachers' cosines. Teachers that differ in what they were trained on, or in the template in
    which they read a text, make different errors, and together they make fewer. Their vectors should be centered
    (`FrozenEncoder.center`).

    Args:
        teachers: Two or more teachers.
        weights: The weight of each; None: equal weights.

    Raises:
        UserError: There are fewer than two teachers, not as many weights, or a weight is not positive.
    """

    def __init__(self, *, teachers: list[Teacher], weights: list[float] | None = None) -> None:
        super().__init__()
        if len(teachers) < 2:
            raise UserError(f"teachers has {len(teachers)} entries\nfix: give two or more, or the one without Ensemble")
        if weights is not None and len(weights) != len(teachers):
            raise UserError(
                f"weights has {len(weights)} entries for {len(teachers)} teachers\nfix: give one for each, or none"
            )
        for i, weight in enumerate(weights or []):
            require_positive("teacher", **{f"weights[{i}]": weight})
        self.teachers = nn.ModuleList(teachers)
        self.weights = weights or [1.0] * len(teachers)
        self.requires = frozenset().union(*(teacher.requires for teacher in teachers))

    def setup(self, encoder: Encoder) -> None:
        super().setup(encoder)
        sizes = [teacher.dim for teacher in self._each()]
        self._alike = len(set(sizes)) == 1
        self.dim = sizes[0] if self._alike else sum(sizes)

    def embed(self, batch: Batch, ctx: StepContext) -> Tensor:
        """The unit vectors (B, V, Dt) of the views of all processes."""
        each = [F.normalize(teacher.embed(batch, ctx), dim=-1) for teacher in self._each()]
        if self._alike:
            return F.normalize(torch.stack([w * t for w, t in zip(self.weights, each, strict=True)]).sum(0), dim=-1)
        return F.normalize(torch.cat([w**0.5 * t for w, t in zip(self.weights, each, strict=True)], -1), dim=-1)

    def _each(self) -> list[Teacher]:
        return [teacher for teacher in self.teachers if isinstance(teacher, Teacher)]
