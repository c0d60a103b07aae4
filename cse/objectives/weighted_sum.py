"""A sum of objectives: an auxiliary term beside a main one."""

from __future__ import annotations

import torch
from torch import nn

from cse.batch import Batch, LossOutput, Views
from cse.errors import UserError, require_at_least, require_within
from cse.interfaces import Objective, StepContext
from cse.objectives.parts.wrapper import Wrapper


class WeightedSum(Wrapper):
    """L = sum_k weight_k decay_k^{step / 100} L_k over the terms that have started, each on the same batch.

    Args:
        terms: The objectives. Row weights need terms that all honor them.
        weights: One weight per term (SimCSE: 1 for the contrast, 0.1 for masked-LM, section 3.3).
        decays: Factor on each term's weight every 100 steps, in (0, 1]; None: 1 for all (PromCSE's masked-LM term:
            0.95).
        starts: The step from which each term counts, counted from 0; before it, the term's weight is 0. None: 0 for all
            (MEQ's question term: the first step of the sixth epoch).

    Source: princeton-nlp/SimCSE, simcse/models.py; YJiangcm/PromCSE, promcse/trainers.py:115-119 for the decay;
    ytyz1307zzh/Minimally_Edited_Questions, train_dense_encoder.py:466-479 for the start.
    """

    needs_vectors = False

    terms: list[Objective]
    weights: list[float]
    decays: list[float] | None = None
    starts: list[int] | None = None

    def __post_init__(self) -> None:
        count = len(self.terms)
        self.terms = nn.ModuleList(self.terms)  # type: ignore[assignment]
        super().__post_init__()
        decays, starts = self.decays or [1.0] * count, self.starts or [0] * count
        if not count == len(self.weights) == len(decays) == len(starts):
            raise UserError(
                f"objective.weights has {len(self.weights)}, decays {len(decays)} and starts {len(starts)} entries for "
                f"{count} terms\nfix: give one entry per term"
            )
        for i, (decay, start) in enumerate(zip(decays, starts, strict=True)):
            require_within("(0, 1]", "objective", **{f"decays[{i}]": decay})
            require_at_least(0, "objective", **{f"starts[{i}]": start})
        self.decays, self.starts = decays, starts

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        assert self.decays is not None  # `__post_init__` made both
        assert self.starts is not None
        outputs: list[LossOutput] = [term(views, batch, ctx) for term in self.terms]
        each = zip(self.weights, self.decays, self.starts, strict=True)
        factors = [w * d ** (ctx.step / 100) * (ctx.step >= start) for w, d, start in each]
        loss = torch.stack([f * o.loss for f, o in zip(factors, outputs, strict=True)]).sum()
        names = [f"{type(term).__name__.lower()}_loss" for term in self.terms]
        names = [n if names.count(n) == 1 else f"{n}_{i}" for i, n in enumerate(names)]  # by place, if classes repeat
        metrics = {n: o.loss.detach() for n, o in zip(names, outputs, strict=True)}
        return LossOutput(loss, metrics | {k: v for o in outputs for k, v in o.metrics.items()})
