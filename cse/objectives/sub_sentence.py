"""Sub-sentence encoder (Chen et al., NAACL 2024, arXiv:2311.04335): vectors of the propositions of a sentence."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from cse.batch import Batch, LossOutput, Views
from cse.encoder.device import placed
from cse.errors import Positive
from cse.interfaces import Objective, StepContext
from cse.objectives.parts.candidates import gathered
from cse.objectives.parts.functional import contrast, cosine_matrix


class SubSentence(Objective):
    """Every proposition attracts those that say the same, against all other propositions of the batch.

        l_i = - 1/|P(i)| sum_{j in P(i)} log e^{cos(u_i, u_j)/t} / sum_{k != i} e^{cos(u_i, u_k)/t}

    u_i is the mean of the last layer's states over the tokens of a proposition, after the exported modules of the
    encoder: what `Encoder.encode_spans` gives. P(i) are the other propositions of its row with its number
    (`Batch.span_group`). The loss is the mean over the propositions that have a positive; with weights of rows
    (`Batch.weight`), the weighted mean.

    Args:
        temperature: t, dimensionless, > 0 (authors' program: 0.1, the default of its loss, which its option
            `--temperature 0.01` never reaches).

    Deviations:
        Propositions that are equal by way of a third are equal (`cse.data.Propositions`, argument `groups`). The
        propositions of copies of a sentence in other rows (`Batch.text_id`) are not candidates. A proposition without a
        token, cut off with the end of its text, is left out.

    Source: schen149/sub-sentence-encoder, model/layers.py:5-33, model/pl_subencoder.py:119-142.
    """

    requires = frozenset({"span_mask", "span_group"})
    cacheable = False
    uses_views = False
    encodes_views = True
    weighs_rows = True

    temperature: Positive = 0.1

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        name, encoder = type(self).__name__, ctx.encoder
        span_mask = batch.require("span_mask", name)  # (b, V, S, L)
        group = batch.require("span_group", name)  # (b, V, S)
        flat = (batch.input_ids.flatten(0, 1), batch.attention_mask.flatten(0, 1), span_mask.flatten(0, 1))
        means = encoder.spans(*flat)[1].flatten(0, 1)  # (b V S, H)
        local = encoder.output(means).projected.view(*group.shape, -1)  # (b, V, S, D)
        vectors, present = gathered(local, placed(span_mask.any(-1), local.device), ctx)
        more = present.shape[-1] - group.shape[-1]
        group = ctx.gather(placed(F.pad(group, (0, more)), local.device))  # (B, V, S)
        found = present.nonzero(as_tuple=True)  # once, since it waits for a GPU
        row, vectors, group = found[0], vectors[found], group[found]  # (A,), (A, D), (A,)
        logits = cosine_matrix(vectors, vectors) / self.temperature  # (A, A)
        same_row = row[:, None] == row
        mask = ~torch.eye(len(row), dtype=torch.bool, device=row.device)
        if batch.text_id is not None:
            text = batch.text_id[found[:2]]  # (A,)
            mask &= same_row | (text[:, None] != text)
        weight = None if batch.weight is None else batch.weight[row]
        result = contrast(logits, same_row & (group[:, None] == group), mask=mask, weight=weight)
        return LossOutput(result.loss, {"unmatched": result.skipped.float(), "propositions": present.sum().float()})
