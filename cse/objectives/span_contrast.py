"""COSTA: contrast of a text with spans of itself (Ma et al., SIGIR 2022, arXiv:2204.10641)."""

from __future__ import annotations

from typing import Literal

import torch

from cse.batch import Batch, LossOutput, Views
from cse.encoder.device import placed
from cse.encoder.model import Encoder
from cse.errors import Positive, UserError
from cse.interfaces import Objective, StepContext
from cse.objectives.parts.candidates import gathered
from cse.objectives.parts.functional import contrast, cosine_matrix


class SpanContrast(Objective):
    """A text attracts the spans of itself among the spans of all texts, all from one pass.

        L_i = - 1/|S(i)| sum_{p in S(i)} log e^{cos(t_i, p)/t} / D_ip

    t_i is the projected vector of text i, the first view of its row, and S(i) are its spans, each the mean of its token
    states. D_ip sums e^{cos/t} over the spans of all texts, own ones included (`all`), or over p and the spans of other
    texts (`self`). The encoder's vectors are as wide as its token states.

    Args:
        temperature: t, dimensionless, > 0 (paper: 0.1).
        denominator: `all` or `self`.
        texts_as_negatives: Whether the vectors of other texts are negatives too.

    Deviations:
        No program of the pre-training is public; the denominator is `all` because the paper's sum runs over the group.
        Copies of a text in other rows (`Batch.text_id`), and their spans, are not candidates. The paper adds masked
        language modeling: use a `WeightedSum` with `MaskedLM`, as recipe span-contrast does.
    """

    requires = frozenset({"span_mask"})
    cacheable = False
    uses_views = False
    encodes_views = True
    weighs_rows = True

    temperature: Positive = 0.1
    denominator: Literal["all", "self"] = "all"
    texts_as_negatives: bool = False

    def setup(self, encoder: Encoder) -> None:
        if encoder.dim != encoder.hidden_size:
            raise UserError(
                f"objective SpanContrast compares vectors with token states, and {encoder.source} has vectors of "
                f"{encoder.dim} numbers and token states of {encoder.hidden_size}\n"
                "fix: use a backbone without a Dense that changes the width"
            )

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        span_mask = batch.require("span_mask", type(self).__name__)[:, 0]  # (b, S, L)
        pooled, means = ctx.encoder.spans(batch.input_ids[:, 0], batch.attention_mask[:, 0], span_mask)
        text = ctx.gather(ctx.encoder.output(pooled).projected)  # (B, D)
        spans, present = gathered(means, placed(span_mask.any(-1), means.device), ctx)  # (B, S, D), (B, S)
        row = torch.arange(len(text), device=text.device)
        own = row[:, None] == row  # (B, B)
        other = ~own if batch.text_id is None else batch.text_id[:, :1] != batch.text_id[:, 0]
        each = present.shape[1]
        logits = cosine_matrix(text, spans.flatten(0, 1))  # (B, B S)
        target = own.repeat_interleave(each, 1)
        mask = (own | other).repeat_interleave(each, 1) & present.flatten()
        if self.texts_as_negatives:
            logits = torch.cat([logits, cosine_matrix(text, text)], 1)  # (B, B S + B)
            target = torch.cat([target, torch.zeros_like(own)], 1)
            mask = torch.cat([mask, other], 1)
        result = contrast(
            logits / self.temperature, target, mask=mask, weight=batch.weight, denominator=self.denominator
        )
        metrics = {"skipped": result.skipped.float(), "spans": present.sum(1).float().mean()}
        return LossOutput(result.loss, metrics)
