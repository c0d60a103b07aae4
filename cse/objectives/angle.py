"""AnglE: Angle-optimized Text Embeddings (Li and Li, ACL 2024, arXiv:2309.12871)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cse.batch import Batch, LossOutput, Views
from cse.errors import NotNegative, Positive
from cse.interfaces import Objective, StepContext
from cse.objectives.cosent import rank_loss
from cse.objectives.parts.candidates import AllPairs, by_view, info_nce
from cse.objectives.parts.functional import Contrast, contrast, normalize, paired_cosine, weighted_mean


class AnglE(Objective):
    """The order of scored pairs by an angle in complex space, beside the order by cosine and an in-batch contrast.

        L = w_ibn L_ibn + w_angle L_rank(s) + w_cos L_rank(cos)
        s(x, y) = | cos(x, y) + (x_im . y_re - x_re . y_im) / (|x| |y|) |

    L_rank is the loss of `CoSENT`, with s or the cosine as the pair's value. The halves of a vector are its real and
    imaginary part, and s is the sum over the numbers of x / y after normalization. L_ibn is a contrast of
    all 2B texts with each other, in which the pairs of score 1 are positives and all other rows count 0 in the mean.
    Triplets need no score: each is a pair of score 1 and a pair of score 0 for each hard negative, and L_ibn is that of
    `SimCSE`. If rows have weights (`Batch.weight`), L_ibn is a weighted mean, and L_rank weighs pairs as `CoSENT` does.

    Limits of s, which cosine does not have: s(x, -x) = s(x, x) = 1; s(x, y) and s(y, x) differ; the largest value is
    sqrt(2), at vectors that are turned by 45 degrees in each complex number, and not at equal ones. So do not give
    `angle_weight` alone: the other terms make the vectors comparable by cosine, as all users compare them. Rows have
    one positive, and scores are in [0, 1].

    Args:
        in_batch_weight: w_ibn, >= 0 (authors' class: 1; on NLI: 30).
        angle_weight: w_angle, >= 0 (authors' class: 0.02; on NLI: 1).
        cosine_weight: w_cos, >= 0 (authors' class: 0). AnglELoss of sentence-transformers is weights of 0, 1 and 0.
        in_batch_temperature: Temperature of L_ibn, > 0 (authors: 0.05, as tau = 20).
        angle_temperature: Temperature of s, > 0 (authors' class: 0.05; their function alone: 1).
        cosine_temperature: Temperature of the cosine, > 0 (authors: 0.05).

    Deviations:
        Equation 3 of the paper has the opposite sign; here the pair of the higher score should have the larger value,
        as in the authors' program and in `CoSENT`. A vector of odd size is filled up with a 0, as in
        sentence-transformers. A score of 0.9 makes no positive in L_ibn, as in the authors' program, which takes the
        integer part of scores.

    Source: SeanLee97/AnglE, angle_emb/loss.py:47-150, angle.py:567; UKPLab/sentence-transformers, losses/angle.py.
    """

    weighs_rows = True

    in_batch_weight: NotNegative = 1.0
    angle_weight: NotNegative = 0.02
    cosine_weight: NotNegative = 0.0
    in_batch_temperature: Positive = 0.05
    angle_temperature: Positive = 0.05
    cosine_temperature: Positive = 0.05

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        if views.positive.shape[1] != 1:
            raise ValueError(f"AnglE needs one positive per row; got {views.positive.shape[1]}")
        triplets = views.negative.shape[1] > 0
        if triplets:
            x, y, score, weight = _split(views, batch)
        else:
            x, y, score, weight = views.anchor, views.positive[:, 0], batch.require_score("AnglE"), batch.weight
        values = {
            "angle": (self.angle_weight, angle(x, y) / self.angle_temperature),
            "cosine": (self.cosine_weight, paired_cosine(x, y) / self.cosine_temperature),
        }
        terms = {n: (w, rank_loss(value, score, weight)[0]) for n, (w, value) in values.items() if w}
        if self.in_batch_weight:
            plain = info_nce(views, batch, self.in_batch_temperature).loss if triplets else None
            terms["in_batch"] = (self.in_batch_weight, self._pairs(views, batch, score) if plain is None else plain)
        loss = torch.stack([w * term for w, term in terms.values()] or [0.0 * x.sum()]).sum()
        return LossOutput(loss, {name: term.detach() for name, (_, term) in terms.items()})

    def _pairs(self, views: Views, batch: Batch, score: Tensor) -> Tensor:
        """L_ibn of pairs with scores (B,)."""

        def loss(pairs: AllPairs) -> Contrast:
            target = pairs.positive * pairs.per_view(score >= 1)[:, None]  # (A, 2 B)
            return contrast(pairs.similarity / self.in_batch_temperature, target, mask=pairs.mask, weight=pairs.weight)

        result = by_view(views, batch, loss)
        return weighted_mean(result.rows, result.weight)


def angle(x: Tensor, y: Tensor) -> Tensor:
    """S (n,) of each row of x (n, D) with the same row of y (n, D); see `AnglE` for its limits."""
    with torch.autocast(x.device.type, enabled=False):
        u, v = (normalize(F.pad(t, (0, t.shape[1] % 2))) for t in (x, y))  # (n, D or D + 1)
        (a, b), (c, d) = u.chunk(2, 1), v.chunk(2, 1)
        return ((u * v).sum(1) + (b * c - a * d).sum(1)).abs()


def _split(views: Views, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Both texts (n, D'), score (n,) and weight (n,) of the n = B (1 + K) pairs of triplets; absent ones weigh 0."""
    others = torch.cat([views.positive, views.negative], 1)  # (B, 1 + K, D')
    each = others.shape[1]
    score = (torch.arange(each, device=others.device) == 0).float().repeat(len(others))
    weight = None if batch.weight is None else batch.weight.repeat_interleave(each)
    if batch.view_mask is not None:
        present = batch.view_mask[:, 1:].flatten().float()
        weight = present if weight is None else weight * present
    return views.anchor.repeat_interleave(each, 0), others.flatten(0, 1), score, weight
