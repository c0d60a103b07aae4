"""Symile: Contrasting with Symile (Saporta et al., NeurIPS 2024, arXiv:2411.01053)."""

from __future__ import annotations

from functools import reduce
from typing import Literal

import torch
from torch import Tensor, nn

from cse.batch import Batch, LossOutput, Views
from cse.encoder.device import placed
from cse.errors import Positive
from cse.interfaces import Objective, StepContext
from cse.objectives.parts.blocks import by_rows
from cse.objectives.parts.functional import Contrast, contrast, normalize


class Symile(Objective):
    """Contrast of whole rows: the texts of a row are recognized together, not in pairs.

        m(x_1, ..., x_M) = sum_d prod_k x_kd                       (the multilinear inner product, of unit vectors)
        L = mean_k mean_i - log e^{s m(x_1i, ..., x_Mi)} / sum_j e^{s m(x_ki, others of combination j)}

    Each of the M = 1 + P texts of a row is the anchor in turn; combination i is the row itself. `n` has B of them: the
    others are shuffled, each independently, and multiplied. `n_squared` has all B^{M-1}. With M = 2 and `n_squared`,
    this is InfoNCE in both directions. Rows have no hard negatives.

    Args:
        negatives: The combinations to compare (authors' program: `n`). The memory of `n_squared` is B^{M-1} D.
        temperature: 1/s before training; s is learned. None: D^{(1-M)/2}, so that a product of M unrelated vectors,
            which shrinks with M, has a logit of about 1.

    Deviations:
        A combination whose texts are all the row's own is masked (`Batch.text_id`); in the authors' program, shuffles
        can make it a negative. Shuffles are drawn in the order of `Batch.row_id`, so that the order of a batch does not
        matter. For M > 3, the authors' `n_squared` takes combinations (1, ..., 1, i) for the positives and stops the
        gradient of the others; here both are as for M = 3.

    Source: rajesh-lab/symile, symile/loss.py.
    """

    requires = frozenset({"row_id"})
    weighs_rows = True
    note = (
        "It was trained so that the vectors of all texts of a row have a large product, summed over dimensions; the "
        "cosine of two vectors is not what was trained."
    )

    negatives: Literal["n", "n_squared"] = "n"
    temperature: Positive | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.log_scale = nn.Parameter(torch.zeros(()))  # of s, relative to its start

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        order = batch.require("row_id", "Symile").argsort(stable=True)
        if views.negative.shape[1]:
            raise ValueError("Symile multiplies anchor and positives; rows of this batch have hard negatives")
        slots = normalize(views.require_aligned("Symile"))[order].unbind(1)  # M of (B, D')
        texts = None if batch.text_id is None else batch.text_id[order].T  # (M, B)
        weight = None if batch.weight is None else batch.weight[order]
        return self.loss(slots, placed(self._combinations(len(slots), len(order), ctx), order.device), texts, weight)

    def loss(
        self, slots: tuple[Tensor, ...], rows: Tensor, texts: Tensor | None = None, weight: Tensor | None = None
    ) -> LossOutput:
        """The loss of M slots (B, D').

        Args:
            slots: The unit vectors of the texts, by their place in the row.
            rows: (M, M - 1, C) the rows of the other slots, for each anchor slot, in combination c; in combination
                i < B, anchor i meets its own row instead.
            texts: (M, B) the identity of each text. None: unknown.
            weight: (B,) the weights of the rows. None: all alike.
        """
        start = self.temperature or slots[0].shape[1] ** ((1 - len(slots)) / 2)
        scale = self.log_scale.exp() / start
        losses = [_of_slot(k, slots, rows[k], scale, texts, weight).loss for k in range(len(slots))]
        return LossOutput(torch.stack(losses).mean(), {"scale": scale.detach()})

    def _combinations(self, slots: int, size: int, ctx: StepContext) -> Tensor:
        """(M, M - 1, C) the rows of the other slots in each combination, for each anchor slot."""
        if self.negatives == "n":
            drawn = [torch.randperm(size, generator=ctx.generator) for _ in range(slots * (slots - 1))]
            return torch.stack(drawn).view(slots, slots - 1, size)
        every = torch.cartesian_prod(*[torch.arange(size)] * (slots - 1)).view(-1, slots - 1)  # (C, M - 1)
        same = (every == every[:, :1]).all(1)  # combination (i, ..., i), which comes first
        return torch.cat([every[same], every[~same]]).T.expand(slots, -1, -1)


def _of_slot(
    k: int, slots: tuple[Tensor, ...], rows: Tensor, scale: Tensor, texts: Tensor | None, weight: Tensor | None
) -> Contrast:
    """The contrast of the vectors of slot k with the combinations of the others, whose rows are (M - 1, C)."""
    others = [slot for j, slot in enumerate(slots) if j != k]
    with torch.autocast(rows.device.type, enabled=False):
        product = reduce(torch.mul, [slot[r] for slot, r in zip(others, rows, strict=True)])  # (C, D')
        own = reduce(torch.mul, slots).sum(-1)  # (B,)
    number = torch.arange(len(own), device=rows.device)

    def loss(anchor: Tensor, own: Tensor, row: Tensor, product: Tensor, scale: Tensor) -> Contrast:
        target = torch.zeros(len(row), rows.shape[-1], device=rows.device).scatter(1, row[:, None], 1.0)  # (A, C)
        with torch.autocast(rows.device.type, enabled=False):
            logits = torch.where(target > 0, own[:, None], anchor @ product.T) * scale  # (A, C)
        mask = None
        if texts is not None:
            others_texts = torch.cat([texts[:k], texts[k + 1 :]])  # (M - 1, B)
            found = others_texts.gather(1, rows)  # (M - 1, C)
            mask = (others_texts[:, row, None] != found[:, None, :]).any(0) | (target > 0)  # (A, C)
        return contrast(logits, target, mask=mask, weight=None if weight is None else weight[row])

    return by_rows(loss, (slots[k], own, number), rows.shape[-1], (product, scale))
