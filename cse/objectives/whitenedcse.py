"""WhitenedCSE: Whitening-based Contrastive Learning of Sentence Embeddings (Zhuo et al., arXiv:2305.17746)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from cse.batch import Batch, LossOutput, Views
from cse.encoder.device import placed
from cse.encoder.heads import Dense
from cse.encoder.model import Encoder
from cse.errors import Count, Positive
from cse.interfaces import Objective, StepContext
from cse.objectives.parts.candidates import InBatch, by_anchor
from cse.objectives.parts.functional import Contrast, contrast, of_present


class WhitenedCSE(Objective):
    """SimCSE on embeddings that are whitened in shuffled groups of channels, with several positives.

        z_v = tanh( A SGW_v(h_v) + b )
        L   = sum_p mean_i - log e^{cos(z_0i, z_pi)/t} / sum_j e^{cos(z_0i, z_pj)/t}

    SGW, the paper's (ACL 2023) shuffled group whitening, puts the channels in random order, cuts them into groups,
    ZCA-whitens each group over the batch and restores the order; a new order for each view makes the views of a
    sentence differ beyond dropout. The linear layer and tanh follow the whitening, so they belong to the objective;
    neither is exported, and the encoder needs no head. Each positive has its own cross-entropy against the same view of
    the other sentences, and these are summed. The collator gives 1 + P views (`views: 3` for two positives). If rows
    have weights (`Batch.weight`), the mean over rows is weighted; the statistics of the whitening are not. A batch is
    larger than a group.

    Args:
        temperature: t, dimensionless, > 0 (paper: 0.05).
        group_size: Channels in a group. The authors' program has 128 groups: 6 channels at H = 768 and 8 at H = 1024.
            None: 128 groups, or groups of the largest size up to 8 that divides the embedding.
        shuffle: `per_view`: each view is whitened over the batch, in an order of its own (the paper). `contiguous`: the
            B V rows in sentence order are cut into V blocks of B, each whitened in an order of its own, so that the
            views of a sentence share one order (the authors' program, shuffled_group_whitening.py:24-77).

    Deviations:
        Statistics are taken over the rows of all processes; the authors' program takes those of each process. A
        direction without variance is mapped to 0; theirs divides by 0. Hard negatives, which the paper does not have,
        join the candidates of every positive.

    Source: SupstarZh/WhitenedCSE, whitenedcse/models.py:57-64, 233-238 and shuffled_group_whitening.py (the release
    itself does not run: models.py:52 is not valid Python).
    """

    weighs_rows = True

    temperature: Positive = 0.05
    group_size: Count | None = 8
    shuffle: Literal["per_view", "contiguous"] = "per_view"

    def setup(self, encoder: Encoder) -> None:
        if self.group_size is None:
            divisors = [size for size in range(1, 9) if encoder.dim % size == 0]
            self.group_size = encoder.dim // 128 if encoder.dim % 128 == 0 else divisors[-1]
        self.head = Dense(encoder.dim, encoder.dim)

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        rows = views.projected  # (B, V, D)
        projected = self.head(self._whiten(rows, ctx.generator, batch.view_mask))  # (B, V, D)
        each = _each_positive(views)  # P of (N,)

        def loss(pairs: InBatch) -> tuple[Contrast, ...]:
            logits = pairs.similarity / self.temperature  # (A, N)
            everything = torch.ones_like(logits, dtype=torch.bool) if pairs.mask is None else pairs.mask
            masks = [everything & one for one in each]
            return tuple(contrast(logits, pairs.positive, mask=mask, weight=pairs.weight) for mask in masks)

        results = by_anchor(Views.split(projected, views.embedding, views.positive.shape[1]), batch, loss)
        return LossOutput(torch.stack([r.loss for r in results]).sum(), {"skipped": results[0].skipped.float()})

    def _whiten(self, rows: Tensor, generator: torch.Generator | None, present: Tensor | None) -> Tensor:
        """(B, V, D) -> (B, V, D), given which views exist (B, V)."""
        assert self.group_size is not None  # setup chose it
        _, count, channels = rows.shape
        blocks, exist = self._cut(rows), [None] * count if present is None else self._cut(present)
        orders = [placed(torch.randperm(channels, generator=generator), rows.device) for _ in range(count)]
        white = [
            of_present(
                partial(group_whiten, group_size=self.group_size, permutation=order),
                block,
                some,
            )
            for block, some, order in zip(blocks, exist, orders, strict=True)
        ]
        return torch.stack(white, 1) if self.shuffle == "per_view" else torch.cat(white).view_as(rows)

    def _cut(self, values: Tensor) -> Sequence[Tensor]:
        """(B, V, ...) -> V of (B, ...), which are whitened together."""
        return values.unbind(1) if self.shuffle == "per_view" else values.flatten(0, 1).chunk(values.shape[1])


def _each_positive(views: Views) -> list[Tensor]:
    """For each of the P positives (N,): True at that positive of every row and at all hard negatives."""
    size, positives, negatives = len(views.anchor), views.positive.shape[1], views.negative.shape[1]
    which = torch.arange(size * positives, device=views.anchor.device) % positives  # (B P,)
    shared = torch.ones(size * negatives, dtype=torch.bool, device=views.anchor.device)
    return [torch.cat([which == p, shared]) for p in range(positives)]


def group_whiten(x: Tensor, group_size: int, *, permutation: Tensor | None = None) -> Tensor:
    """ZCA-whiten the rows of x (n, D) within each group of `group_size` channels: (n, D), float32 at least.

        y_g = (x_g - mean) S_g^{-1/2},    S_g = (x_g - mean)^T (x_g - mean) / n

    Group whitening (Huang et al., CVPR 2021, arXiv:2009.13333); one group is plain ZCA whitening. S is a constant, as
    in the authors' program (line 113 there): the gradient passes through x - mean alone. A direction without variance
    (a constant or repeated channel) cannot be scaled to 1 and is mapped to 0.

    Args:
        x: n rows, more than `group_size`: fewer cannot have a covariance of full rank.
        group_size: Channels in a group; it divides D.
        permutation: (D,) the order in which channels are put before adjacent ones are grouped; undone afterwards.

    Raises:
        ValueError: The group size does not divide D, or there are too few rows.
    """
    rows, channels = x.shape
    if group_size < 1 or channels % group_size:
        raise ValueError(f"group_size is {group_size}, which does not divide the {channels} channels of an embedding")
    if rows <= group_size:
        raise ValueError(f"batch_size is {rows} and group_size {group_size}: a group needs more rows than channels")
    with torch.autocast(x.device.type, enabled=False):
        x = x if x.dtype == torch.float64 else x.float()
        shuffled = x if permutation is None else x[:, permutation]
        groups = shuffled.reshape(rows, -1, group_size).transpose(0, 1)  # (G, n, d)
        centered = groups - groups.mean(1, keepdim=True)
        root = _inverse_sqrt(groups.detach(), centered.detach())  # (G, d, d)
        white: Tensor = (centered @ root).transpose(0, 1).reshape(rows, channels)
        return white if permutation is None else white[:, permutation.argsort()]


def _inverse_sqrt(groups: Tensor, centered: Tensor) -> Tensor:
    """S^{-1/2} (G, d, d) of groups (G, n, d); directions whose variance is that of rounding are mapped to 0."""
    epsilon = torch.finfo(groups.dtype).eps
    values, vectors = torch.linalg.eigh(centered.mT @ centered / groups.shape[1])  # (G, d) ascending, (G, d, d)
    floor = (32 * epsilon) ** 2 * groups.square().mean((1, 2))  # (G,) the variance that rounding gives to a constant
    rounding = groups.shape[-1] * epsilon * values[:, -1]
    kept = values > torch.maximum(rounding, floor)[:, None]
    f = torch.where(kept, values, torch.ones_like(values)).rsqrt() * kept
    return (vectors * f[:, None]) @ vectors.mT
