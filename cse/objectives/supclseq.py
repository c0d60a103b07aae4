"""SupCL-Seq: supervised contrast of sequences (Sedghamiz et al., Findings of EMNLP 2021, arXiv:2109.07424)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch

from cse.batch import Batch, LossOutput, Views
from cse.encoder.dropout import dropout_rate, dropouts
from cse.encoder.model import Encoder
from cse.errors import UserError, require_within
from cse.interfaces import Objective, StepContext
from cse.objectives.parts.candidates import views_of
from cse.objectives.supcon import SupCon


class SupCLSeq(Objective):
    """SupCon whose further views are the same texts under other dropout rates.

        L = SupCon( f_0(x), f_{r_1}(x), ..., f_{r_n}(x) ),    f_r the encoder with every dropout at rate r

    The first pass f_0 has the encoder's own dropout, and each rate adds one pass over the batch. The loss is that of
    `SupCon`, over all passes and the labels. Rows have labels. The backbone has dropout, and its layers are not
    recomputed.

    Args:
        rates: The rates r, each in [0, 1) (authors' program: 0, 0.05 and 0.2).
        temperature: The temperature of the contrast, dimensionless, > 0 (authors' program: 0.05).
        base_temperature: The scale of the loss is temperature / base_temperature; None is 1. The authors' program sets
            the temperature to 0.05 and leaves this at 0.07, which multiplies the loss by 0.714.
        reduce: `out` or `in`, the place of the mean over positives; see `SupCon`.

    Deviations:
        The authors train on pairs of texts that the encoder reads as one sequence, and then a linear layer on the
        frozen encoder; here a row is one text, and the encoder is the result. At a rate equal to the encoder's own,
        their program leaves the dropout at the rate before; here each pass has the rate that is asked for, and the
        encoder has its own again afterwards. A view without a positive is left out of the mean, where theirs gives NaN.

    Source: hooman650/SupCL-Seq, src/SupCsTrainer.py:49-133.
    """

    requires = frozenset({"label"})
    cacheable = False
    uses_views = False
    encodes_views = True
    weighs_rows = True

    rates: Sequence[float] = (0.0, 0.05, 0.2)
    temperature: float = 0.05
    base_temperature: float | None = None
    reduce: Literal["out", "in"] = "out"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.rates:
            raise UserError("objective.rates is empty, so there is a single view\nfix: give at least one dropout rate")
        require_within("[0, 1)", "objective", **{f"rates[{i}]": rate for i, rate in enumerate(self.rates)})
        self.rates = list(self.rates)
        self.contrast = SupCon(temperature=self.temperature, base_temperature=self.base_temperature, reduce=self.reduce)

    def setup(self, encoder: Encoder) -> None:
        if not any(True for _ in dropouts(encoder.backbone)):
            raise UserError(
                f"objective SupCLSeq sets the dropout of the backbone, and {encoder.source} has none\n"
                "fix: use SupCon with augmented views, or another backbone"
            )
        if encoder.recomputes:
            raise UserError(
                "trainer.gradient_checkpointing: a layer that is computed again would have another dropout rate than "
                "objective SupCLSeq gave it\nfix: remove trainer.gradient_checkpointing"
            )

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        own = self._encode(batch, ctx)
        passes = [own]  # R + 1
        for rate in self.rates:
            with dropout_rate(ctx.encoder.backbone, rate):
                passes.append(self._encode(batch, ctx))
        texts, count = 1 + batch.num_positives, len(passes)
        positive = torch.cat([torch.cat([v.anchor[:, None], v.positive], 1) for v in passes], 1)  # (B, (R+1)(1+P), D')
        negative = torch.cat([v.negative for v in passes], 1)  # (B, (R+1) K, D')
        order = list(range(texts)) * count + list(range(texts, batch.views)) * count
        wider = replace(batch.with_views(order), num_positives=texts * count - 1)
        every = Views(positive[:, 0], positive[:, 1:], negative, own.embedding)
        return self.contrast(every, wider, ctx)

    def _encode(self, batch: Batch, ctx: StepContext) -> Views:
        return views_of(ctx.encoder(batch.input_ids.flatten(0, 1), batch.attention_mask.flatten(0, 1)), batch, ctx)
