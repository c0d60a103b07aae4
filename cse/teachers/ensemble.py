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

    teachers: list[Teacher]
    weights: list[float] | None = None

    def __post_init__(self) -> None:
        count, weights = len(self.teachers), self.weights
        if count < 2:
            raise UserError(f"teachers has {count} entries\nfix: give two or more, or the one without Ensemble")
        if weights is not None and len(weights) != count:
            raise UserError(f"weights has {len(weights)} entries for {count} teachers\nfix: give one for each, or none")
        require_positive("teacher", **{f"weights[{i}]": weight for i, weight in enumerate(weights or [])})
        self.teachers = nn.ModuleList(self.teachers)  # type: ignore[assignment]
        self.weights = weights or [1.0] * count
        super().__post_init__()

    def setup(self, encoder: Encoder) -> None:
        super().setup(encoder)
        sizes = [teacher.dim for teacher in self.teachers]
        self._alike = len(set(sizes)) == 1
        self.dim = sizes[0] if self._alike else sum(sizes)

    def embed(self, batch: Batch, ctx: StepContext) -> Tensor:
        assert self.weights is not None  # `__post_init__` made them
        vectors = (F.normalize(teacher.embed(batch, ctx), dim=-1) for teacher in self.teachers)
        each = list(zip(self.weights, vectors, strict=True))
        if self._alike:
            return F.normalize(torch.stack([w * t for w, t in each]).sum(0), dim=-1)
        return F.normalize(torch.cat([w**0.5 * t for w, t in each], -1), dim=-1)
