"""A sum of objectives: an auxiliary term beside a main one."""

from __future__ import annotations

import torch
from torch import nn

from cse.batch import Batch, LossOutput, Views
from cse.encoder.model import Encoder
from cse.errors import UserError, require_within
from cse.interfaces import Objective, StepContext


class WeightedSum(Objective):
    """L = sum_k weight_k decay_k^{step / 100} L_k, each term on the same batch.

    Args:
        terms: The objectives. Row weights need terms that all honor them.
        weights: One weight per term (SimCSE: 1 for the contrast, 0.1 for masked-LM, section 3.3).
        decays: Factor on each term's weight every 100 steps, in (0, 1]; None: 1 for all (PromCSE's masked-LM term:
            0.95).

    Raises:
        UserError: The lists differ in length, or a decay is outside (0, 1].

    Source: princeton-nlp/SimCSE, simcse/models.py; YJiangcm/PromCSE, promcse/trainers.py:115-119 for the decay.
    """

    def __init__(self, *, terms: list[Objective], weights: list[float], decays: list[float] | None = None) -> None:
        super().__init__()
        decays = decays or [1.0] * len(terms)
        if not len(terms) == len(weights) == len(decays):
            raise UserError(
                f"objective.weights has {len(weights)} and decays {len(decays)} entries for {len(terms)} terms\n"
                "fix: give one entry per term"
            )
        for i, decay in enumerate(decays):
            require_within("(0, 1]", "objective", **{f"decays[{i}]": decay})
        self.terms = nn.ModuleList(terms)
        self.weights, self.decays = weights, decays
        self.inherit_flags(*terms)

    def setup(self, encoder: Encoder) -> None:
        """Set up each term."""
        for term in self.terms:
            term.setup(encoder)  # type: ignore[operator]

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        """The weighted sum, and each term's metrics."""
        outputs: list[LossOutput] = [term(views, batch, ctx) for term in self.terms]
        factors = [w * d ** (ctx.step / 100) for w, d in zip(self.weights, self.decays, strict=True)]
        loss = torch.stack([f * o.loss for f, o in zip(factors, outputs, strict=True)]).sum()
        names = [type(term).__name__.lower() for term in self.terms]
        metrics = {f"{n}_loss": o.loss.detach() for n, o in zip(names, outputs, strict=True)}
        return LossOutput(loss, metrics | {k: v for o in outputs for k, v in o.metrics.items()})

    def after_step(self, ctx: StepContext) -> None:
        """Tell each term."""
        for term in self.terms:
            term.after_step(ctx)  # type: ignore[operator]
