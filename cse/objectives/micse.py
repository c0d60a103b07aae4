"""miCSE: Mutual Information Contrastive Learning (Klein and Nabi, ACL 2023, arXiv:2211.04928)."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cse.batch import Batch, LossOutput, Views
from cse.encoder.device import placed
from cse.encoder.model import Encoder
from cse.errors import NotNegative, Positive, UserError
from cse.interfaces import Objective, StepContext
from cse.objectives.parts.candidates import info_nce, views_of
from cse.objectives.parts.functional import paired_cosine, ratio


class MiCSE(Objective):
    """SimCSE's contrast, and the mutual information of the attention that two dropout views of a text pay.

        L = L_contrast - lambda s^2 mean_r [ - 1/2 log(1 - rho_r^2) ]

    rho_r is the correlation of log a and log b over random cells of row r, where a and b are the attention weights of
    the two views, after dropout. A row is one head of one text in every second of the layers, so that a text has two
    rows per head, and a cell is a layer, a query and a key. Only cells where both weights are positive can be drawn,
    and s is their share. A row with too few of them is left out; if all have too few, as many are drawn from each as
    the poorest row has. The encoder reads a batch once, for vectors and attention, by the plain formula of attention.

    The views are the anchor and the first positive: one text under two dropout masks. Texts that differ are compared
    position by position. If rows have weights (`Batch.weight`), all means and the share are weighted. The backbone
    gives attentions, and its layers are not recomputed.

    Args:
        temperature: Temperature of the contrast, > 0 (paper: 0.05).
        information_weight: lambda, >= 0 (authors: 0.0005, 0.0001, 0.001 and 0.001 with 10, 1, 0.1 and 0.01 percent of
            SimCSE's sentences).
        first_layer: The first layer that is read, counted from 0, or from the end if negative: -1 is the last.
        last_layer: The last layer that is read (authors: layers 7 to 10 of BERT-base, its -5 to -2).
        samples: The number of cells that are drawn from a row, >= 2 (authors' program: 150). All rows draw in one
            random order of the cells.
        padding: Cells with padding are `excluded`, or `counted` as in the authors' program. There a padding query pays
            attention too, and a cell with a padding key never has any, but is part of the share.

    Deviations:
        In the authors' program each row draws an order of its own, s^2 has 10^-6 added, and a term that is not a number
        becomes the constant 100. Here 1 - rho^2 is at least 10^-6, beyond which the term has no gradient.

    Source: SAP-samples/acl2023-micse, model/models.py:166-173, 233-316.
    """

    cacheable = False
    uses_views = False
    encodes_views = True
    weighs_rows = True

    temperature: Positive = 0.05
    information_weight: NotNegative = 5e-4
    first_layer: int = -5
    last_layer: int = -2
    samples: Annotated[int, ">= 2"] = 150
    padding: Literal["excluded", "counted"] = "excluded"

    def setup(self, encoder: Encoder) -> None:
        depth = encoder.depth
        first, last = (depth + n if n < 0 else n for n in (self.first_layer, self.last_layer))
        if not 0 <= first < last < depth or (last - first) % 2 == 0:
            raise UserError(
                f"objective.first_layer is {self.first_layer} and objective.last_layer is {self.last_layer}, and "
                f"{encoder.source} has layers 0 to {depth - 1}\nfix: choose an even number of them, first before last"
            )
        self.layers = slice(first, last + 1)

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        extra = ctx.all_max(batch.input_ids.shape[-1]) - batch.input_ids.shape[-1]  # cells have one order everywhere
        ids = F.pad(batch.input_ids, (0, extra), value=ctx.encoder.tokenizer.pad_token_id)  # (b, V, L)
        mask = F.pad(batch.attention_mask, (0, extra))  # (b, V, L)
        states = ctx.encoder.states(ids.flatten(0, 1), mask.flatten(0, 1), attentions=True)
        mask = placed(mask, states.attentions[-1].device)
        output = ctx.encoder.pooled(states, mask.flatten(0, 1))
        contrastive = info_nce(views_of(output, batch, ctx), batch, self.temperature)
        attention = torch.stack(list(states.attentions[self.layers]), 1)  # (b V, M, heads, L, L)
        both = attention.view(*mask.shape[:2], *attention.shape[1:])[:, :2]  # (b, 2, M, heads, L, L)
        information, share = self.information(both, mask[:, :2], batch, ctx)
        metrics = {"contrastive": contrastive.loss.detach(), "information": information.detach(), "share": share}
        metrics |= {"skipped": contrastive.skipped.float()}
        return LossOutput(contrastive.loss - self.information_weight * share.square() * information, metrics)

    def information(self, attention: Tensor, mask: Tensor, batch: Batch, ctx: StepContext) -> tuple[Tensor, Tensor]:
        """The mean over rows of - 1/2 log(1 - rho^2), and s, of two views' attention (b, 2, M, heads, L, L)."""
        wide = attention if attention.dtype == torch.float64 else attention.float()
        every_second = wide.reshape(*wide.shape[:2], -1, 2, *wide.shape[3:])  # (b, 2, M / 2, 2, heads, L, L)
        split = every_second.permute(1, 0, 4, 3, 2, 5, 6)  # (2, b, heads, 2, M / 2, L, L)
        one, other = split.flatten(4).flatten(1, 3)  # (R, C) each
        counted = torch.ones_like(mask[:, 0]) if self.padding == "counted" else mask.prod(1)  # (b, L)
        cells = (counted[:, :, None] * counted[:, None]).bool()[:, None, None, None].expand(split.shape[1:])
        cells = cells.flatten(3).flatten(0, 2)  # (R, C) the cells that count
        positive = cells & (one > 0) & (other > 0)
        found = positive.sum(1)  # (R,)

        # What is left out counts 0, since a number or a shape that depends on values would be waited for on a GPU.
        every = ctx.gather(found)  # (W R,)
        samples = torch.where((every >= self.samples).any(), self.samples, every.min())
        kept = found >= samples  # (R,)
        weight = kept.to(one)  # (R,)
        if batch.weight is not None:
            weight = weight * batch.weight[ctx.local_rows].to(one).repeat_interleave(len(one) // len(attention))
        picked = self.draw(positive, ctx)  # (R, samples)
        drawn = kept[:, None] & (torch.arange(picked.shape[1], device=picked.device) < samples)
        x, y = (torch.where(drawn, side.gather(1, picked), 1.0).log() for side in (one, other))
        x, y = ((z - z.sum(1, keepdim=True) / samples.clamp_min(1)) * drawn for z in (x, y))
        terms = -(1 - paired_cosine(x, y).square()).clamp_min(1e-6).log() / 2  # (R,)
        information = ratio(ctx.all_sum((weight * terms).sum()), ctx.all_sum(weight.sum()))
        share = ratio(*(ctx.all_sum((weight * c.sum(1)).sum()) for c in (positive, cells)))
        return information, share

    def draw(self, positive: Tensor, ctx: StepContext) -> Tensor:
        """(R, samples) the first cells of a random order among the True ones of each row (R, C), before the others."""
        order = placed(torch.rand(positive.shape[1], generator=ctx.generator), positive.device)  # (C,)
        samples = min(self.samples, positive.shape[1])
        return order.masked_fill(~positive, 2.0).topk(samples, largest=False).indices
