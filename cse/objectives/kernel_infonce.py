"""Kernel-InfoNCE: Contrastive Learning Is Spectral Clustering (Tan et al., ICLR 2024, arXiv:2303.15103)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cse.batch import Batch, LossOutput, Views
from cse.errors import NotNegative, Positive, Share
from cse.interfaces import Objective, StepContext
from cse.objectives.parts.candidates import AllPairs, by_view
from cse.objectives.parts.functional import Contrast, contrast, normalize, squared_distance


class KernelInfoNCE(Objective):
    """InfoNCE with exponential kernels of the distance in place of e^{cosine}.

        L_g = - mean_{ia} log k(z_ia, z_ib) / sum_{(j, c) != (i, a)} k(z_ia, z_jc),    k(x, y) = e^{-|x - y|^g / t}

    on unit vectors, over the 2B views of the batch (NT-Xent). g = 2, the Gaussian, is NT-Xent at temperature t/2. Two
    kernels are combined as m L_g + (1 - m) L_2: `sum` takes both on the whole vector, and `product` the first on the
    first half of the dimensions and the second on the rest. With P > 1, the loss of a view is the mean over its
    positives, and these are not each other's negatives.

    Args:
        gamma: g, > 0 (authors' program: 2; its search has 0.5 and 1).
        temperature: t, > 0 (authors' program: 0.1).
        combination: `none` is L_g alone.
        mix: m, in [0, 1].
        epsilon: The denominator D becomes max(D, epsilon) + epsilon. The authors' program has 1e-6, which at a low
            temperature exceeds the kernels of all negatives, so that they lose their gradient.

    Deviations:
        The denominator is exact by default; see `epsilon`.

    Source: yifanzhang-pro/Kernel-InfoNCE, simclr_module.py:264-362.
    """

    weighs_rows = True

    gamma: Positive = 2.0
    temperature: Positive = 0.1
    combination: Literal["none", "sum", "product"] = "none"
    mix: Share = 0.5
    epsilon: NotNegative = 0.0

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        whole, half = slice(None), views.anchor.shape[1] // 2
        if self.combination == "none":
            return LossOutput(self._loss(views, batch, self.gamma, whole))
        first, second = (whole, whole) if self.combination == "sum" else (slice(half), slice(half, None))
        loss = self.mix * self._loss(views, batch, self.gamma, first)
        return LossOutput(loss + (1 - self.mix) * self._loss(views, batch, 2.0, second))

    def _loss(self, views: Views, batch: Batch, gamma: float, part: slice) -> Tensor:
        """L_gamma on a part of the dimensions of the unit vectors."""

        def nearness(a: Tensor, b: Tensor) -> Tensor:
            squared = squared_distance(normalize(a)[:, part], normalize(b)[:, part])  # (A, N)
            return -squared if gamma == 2 else -squared.clamp_min(1e-30).pow(gamma / 2)

        def loss(pairs: AllPairs) -> Contrast:
            logits, target, mask = pairs.similarity / self.temperature, pairs.positive, pairs.mask  # (A, N)
            if self.epsilon:  # one more candidate, whose kernel is what the denominator gains
                total = logits.masked_fill(~mask, -torch.inf).exp().sum(1, keepdim=True)  # (A, 1)
                logits = torch.cat([logits, (self.epsilon + F.relu(self.epsilon - total)).log()], 1)
                target, mask = F.pad(target, (0, 1)), F.pad(mask, (0, 1), value=True)
            return contrast(logits, target, mask=mask, weight=pairs.weight, denominator="self")

        return by_view(views, batch, loss, nearness).loss
