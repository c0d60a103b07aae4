"""Matryoshka representation learning (Kusupati et al., NeurIPS 2022, arXiv:2205.13147) over any objective."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cse.batch import Batch, LossOutput, Views
from cse.encoder.model import Encoder
from cse.encoder.vectors import check_widths, halves
from cse.errors import Count, UserError, require_at_least
from cse.interfaces import Objective, StepContext
from cse.objectives.parts.functional import normalize
from cse.objectives.parts.wrapper import Wrapper


class Matryoshka(Wrapper):
    """The sum of an objective's losses on the first m dimensions of the vectors, for several m.

        L = sum_m c_m L( z[:m] / |z[:m]| )

    Equation 1 of the paper. Users may then keep the first m dimensions of an exported vector. Vectors are scaled to
    unit length after the cut, which objectives of cosines do not notice. Inside of `AdaptiveLayer` it is 2D Matryoshka
    (Li et al., 2024, arXiv:2402.14776), which draws other widths for each layer. The encoder has no head that serves
    training only.

    Args:
        term: The objective. It must have no weights of its own.
        dimensions: The widths m. None: D, D/2, D/4 and D/8, for vectors of D dimensions.
        weights: c, one per width, >= 0. None: 1 for all (paper: 1; the sum is not divided by the number of widths).
        dimensions_per_step: This many widths are drawn in each step, from all of them, D included. None: all.

    Source: sentence-transformers 6.2.0, losses/matryoshka.py, MatryoshkaLoss, and matryoshka_2d.py.
    """

    changes_vectors = True

    term: Objective
    dimensions: list[int] | None = None
    weights: list[float] | None = None
    dimensions_per_step: Count | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dimensions is not None:
            check_widths(self.dimensions, option="objective.dimensions")
        require_at_least(0, "objective", **{f"weights[{i}]": weight for i, weight in enumerate(self.weights or ())})
        self._check_weights()

    def setup(self, encoder: Encoder) -> None:
        self.check_exported(encoder, "trains the dimensions")
        self.dimensions = halves(encoder.dim) if self.dimensions is None else self.dimensions
        check_widths(self.dimensions, encoder.dim, option="objective.dimensions")
        self._check_weights()
        super().setup(encoder)

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        assert self.dimensions is not None  # setup chose them
        weights = self.weights or [1.0] * len(self.dimensions)
        chosen = draw(len(self.dimensions), self.dimensions_per_step, ctx.generator)
        outputs = {i: self.term(first_dimensions(views, self.dimensions[i]), batch, ctx) for i in chosen}
        loss = torch.stack([weights[i] * output.loss for i, output in outputs.items()]).sum()
        metrics = {f"loss_{self.dimensions[i]}": output.loss.detach() for i, output in outputs.items()}
        widest = max(outputs, key=lambda i: self.dimensions[i] if self.dimensions else 0)
        return LossOutput(loss, metrics | dict(outputs[widest].metrics))

    def _check_weights(self) -> None:
        if None not in (self.weights, self.dimensions) and len(self.weights or ()) != len(self.dimensions or ()):
            raise UserError(
                f"objective.weights has {len(self.weights or ())} entries for the widths {self.dimensions}\n"
                "fix: give one weight per width"
            )


def first_dimensions(views: Views, width: int) -> Views:
    """The views with their projected vectors cut to `width` dimensions and scaled to unit length."""
    return views.mapped(lambda part: normalize(part[..., :width]))


def draw(count: int, some: int | None, generator: torch.Generator | None) -> Sequence[int]:
    """`some` of the numbers 0 .. count - 1, in the order of the draw; all of them in order, and no draw, for None."""
    if some is None or some >= count:
        return range(count)
    return [int(i) for i in torch.randperm(count, generator=generator)[:some]]
