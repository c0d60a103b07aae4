"""Pure tensor functions: the formulas that objectives are made of. No state, no randomness, no processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cse.batch import LossOutput

Denominator = Literal["all", "self", "none"]
Distance = Literal["euclidean", "squared", "cosine", "dot"]


class Contrast(NamedTuple):
    """The result of `contrast`."""

    rows: Tensor  # (A,) the loss of each row; 0 where it has no positive
    valid: Tensor  # (A,) True where the row has a positive
    weight: Tensor | None  # (A,) how much each row counts in the mean; None: all alike

    @property
    def loss(self) -> Tensor:
        """() the mean over the rows that have a positive, weighted if the rows have weights."""
        return _mean(self.rows, self.valid, self.weight)

    @property
    def skipped(self) -> Tensor:
        """() the number of rows without a positive."""
        return (~self.valid).sum()

    def output(self) -> LossOutput:
        """The output of an objective that is this contrast alone."""
        return LossOutput(self.loss, {"skipped": self.skipped.float()})

    def focal(self, gamma: float) -> Contrast:
        """The losses l times (1 - e^{-l})^gamma, so that rows whose positives are likely count less."""
        wrong = (-torch.expm1(-self.rows)).clamp_min(torch.finfo(self.rows.dtype).tiny)  # (A,) and no gradient at 0
        return self._replace(rows=self.rows * wrong**gamma)


def normalize(x: Tensor) -> Tensor:
    """Unit vectors over the last dimension, in float32 at least. Norms are floored at 1e-8, as cosine's are.

    A vector of zeros has no direction. It stays, and its gradient is not divided by the floor.
    """
    x = x if x.dtype == torch.float64 else x.float()
    norm = x.norm(dim=-1, keepdim=True)  # (..., 1)
    return x / torch.where(norm > 0, norm.clamp_min(1e-8), 1.0)


def of_present(function: Callable[[Tensor], Tensor], rows: Tensor, present: Tensor | None) -> Tensor:
    """Apply a function of whole batches (n, D) -> (n, D'), such as batch norm, to the rows (..., D) that exist.

    What it gives (..., D') is 0 where `present` (...) is False.
    """
    if present is None:
        return function(rows.flatten(0, -2)).view(*rows.shape[:-1], -1)
    found = function(rows[present])
    whole = found.new_zeros(*present.shape, found.shape[-1])
    whole[present] = found
    return whole


def cosine_matrix(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of every row of a (A, D) with every row of b (N, D): (A, N), in float32 whatever the autocast."""
    with torch.autocast(a.device.type, enabled=False):
        u, v = normalize(a), normalize(b)
        wider = torch.promote_types(u.dtype, v.dtype)
        return u.to(wider) @ v.to(wider).T


def dot_matrix(a: Tensor, b: Tensor) -> Tensor:
    """Dot product of every row of a (A, D) with every row of b (N, D): (A, N), in float32 whatever the autocast."""
    with torch.autocast(a.device.type, enabled=False):
        wider = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
        return a.to(wider) @ b.to(wider).T


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """|a - b|^2 of every row of a (A, D) and every row of b (N, D): (A, N) >= 0, in float32 whatever the autocast."""
    with torch.autocast(a.device.type, enabled=False):
        wider = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
        a, b = a.to(wider), b.to(wider)
        return (a.square().sum(-1)[:, None] - 2 * a @ b.T + b.square().sum(-1)).clamp_min(0.0)


def paired_cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of each row of a (n, D) with the same row of b (n, D): (n,), in float32 whatever the autocast."""
    with torch.autocast(a.device.type, enabled=False):
        product = normalize(a) * normalize(b)  # (n, D)
    return product.sum(-1)


def paired_distance(a: Tensor, b: Tensor, distance: Distance) -> Tensor:
    """Measure how far each row of a (..., D) is from that of b (..., D): (...), in float32 whatever the autocast.

        euclidean: |a - b|      squared: |a - b|^2      cosine: 1 - cos(a, b)      dot: -a.b

    Equal rows have no gradient, by distance or squared distance.
    """
    if distance == "cosine":
        return 1 - paired_cosine(a, b)
    with torch.autocast(a.device.type, enabled=False):
        wider = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
        a, b = a.to(wider), b.to(wider)
        if distance == "dot":
            return -(a * b).sum(-1)
        return (a - b).square().sum(-1) if distance == "squared" else torch.linalg.vector_norm(a - b, dim=-1)


def contrast(
    logits: Tensor,
    target: Tensor,
    *,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    row_weight: Tensor | None = None,
    weight: Tensor | None = None,
    denominator: Denominator = "all",
    reduce: Literal["out", "in"] = "out",
) -> Contrast:
    """The one contrastive kernel: how far logits are from putting each row's mass on its positives.

    With S = logits + bias and w = target / its row sum, a row's loss is

        out:  - sum_p w_p log( e^{S_p} / D_p )          in:  - log sum_p w_p e^{S_p} / D_p

    where D_p sums e^S over all candidates (`all`), over p itself and the negatives (`self`), or over the negatives
    only (`none`). Negatives are the unmasked candidates whose target is 0. InfoNCE is a one-hot target with `all`;
    SupCon (arXiv:2004.11362, eq. 2 and 3) is a multi-hot target with `out` and `in`.

    Args:
        logits: (A, N) similarities already divided by the temperature.
        target: (A, N) non-negative weights of the positives; 0 marks negatives.
        mask: (A, N) True where the candidate takes part at all. None: everywhere. Masked entries may hold anything.
        bias: (A, N), or a shape that broadcasts to it, added to the logits.
        row_weight: (A,) factor on each row's loss; the mean still divides by the number of rows.
        weight: (A,) how much each row counts in the mean, sum_i w_i l_i / sum_i w_i (`Batch.weight`). None: all alike.
        denominator: What D sums over.
        reduce: Whether positives are averaged outside or inside the logarithm.

    Returns:
        The loss of each row, and their mean. Rows without a positive add nothing and are counted. Everything is
        computed in float32 at least.
    """
    scores = logits if logits.dtype == torch.float64 else logits.float()
    scores = scores if bias is None else scores + bias
    present = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask
    share = target.to(scores.dtype) * present
    positive = share > 0
    valid = positive.any(-1)
    share = share / share.sum(-1, keepdim=True).clamp_min(torch.finfo(scores.dtype).tiny)
    scores = scores.masked_fill(~present, 0.0)  # a masked entry may be inf or nan; it must not reach the gradient

    log_ratio = scores - _log_denominator(scores, present, positive, valid, denominator)  # (A, N)
    if reduce == "out":
        rows = -(share * log_ratio.masked_fill(~positive, 0.0)).sum(-1)
    else:
        log_share = share.masked_fill(~positive, 1.0).log()
        inside = (log_share + log_ratio).masked_fill(~positive, -torch.inf)
        rows = -torch.logsumexp(inside.masked_fill(~valid[:, None], 0.0), -1)
    rows = rows.masked_fill(~valid, 0.0)
    rows = rows if row_weight is None else rows * row_weight
    return Contrast(rows, valid, weight)


def _mean(rows: Tensor, valid: Tensor, weight: Tensor | None) -> Tensor:
    if weight is None:
        return rows.sum() / valid.sum().clamp_min(1)
    counted = weight.to(rows.dtype) * valid
    return ratio((rows * counted).sum(), counted.sum())


def ratio(total: Tensor, weight: Tensor) -> Tensor:
    """Divide a weighted sum by its weight, both (...); where the weight is 0, the sum, which is 0 too, stays."""
    return total / torch.where(weight > 0, weight, torch.ones_like(weight))


def _log_denominator(scores: Tensor, present: Tensor, positive: Tensor, valid: Tensor, kind: Denominator) -> Tensor:
    """Log D, (A, 1) or (A, N). Rows without a positive get a finite stand-in; `contrast` drops them."""
    if kind == "all":
        terms = scores.masked_fill(~present, -torch.inf)
        return torch.logsumexp(terms.masked_fill(~valid[:, None], 0.0), -1, keepdim=True)
    negative = present & ~positive
    empty = ~(negative.any(-1) & valid)
    filled = scores.masked_fill(~negative, -torch.inf).masked_fill(empty[:, None], 0.0)
    log_negatives = torch.logsumexp(filled, -1, keepdim=True)  # (A, 1)
    if kind == "none":
        return log_negatives
    alone = torch.where(empty[:, None], torch.full_like(log_negatives, -torch.inf), log_negatives)
    return torch.logaddexp(scores, alone)  # (A, N)


def log_hardness(logits: Tensor, negative: Tensor, beta: float) -> Tensor:
    """The log of weights by which hard negatives count more (arXiv:2010.04592, equation 4).

        w_aj = n e^{b S_aj} / sum_k e^{b S_ak}        over the n negatives k of a, so that a row of w sums to n

    S are similarities (A, N), already divided by the temperature. The result is 0 where no candidate is `negative`.
    """
    scores = (beta * logits).masked_fill(~negative, -torch.inf)
    scores = scores.masked_fill(~negative.any(-1, keepdim=True), 0.0)
    count = negative.sum(-1, keepdim=True).clamp_min(1).to(scores.dtype)
    return (count.log() + torch.log_softmax(scores, -1)).masked_fill(~negative, 0.0)


def all_entries_bce(logits: Tensor, target: Tensor, mask: Tensor, weight: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of each row's softmax p, averaged over all unmasked entries: DCLR's program.

        - mean_{ij} [ y_ij log p_ij + (1 - y_ij) log(1 - p_ij) ]

    An entry (A, N) takes part where the mask is True, and weighs as much as its row (A,). Finite where p rounds to 1.
    """
    scores = logits if logits.dtype == torch.float64 else logits.float()
    log_p = torch.log_softmax(scores.masked_fill(~mask, -torch.inf), -1)
    largest = -torch.finfo(scores.dtype).eps
    log_rest = torch.log(-torch.expm1(log_p.clamp_max(largest)))  # log(1 - p)
    terms = torch.where(target > 0, log_p, log_rest).masked_fill(~mask, 0.0)
    if weight is None:
        return -terms.sum() / mask.sum().clamp_min(1)
    counted = weight.to(scores.dtype)[:, None].expand_as(terms)
    return -_mean(terms.flatten(), mask.flatten(), counted.flatten())


def weighted_mean(rows: Tensor, weight: Tensor | None) -> Tensor:
    """() the mean of a loss per row (B,), sum_i w_i l_i / sum_i w_i if the rows have weights (B,); 0 if all are 0."""
    return rows.mean() if weight is None else _mean(rows, torch.ones_like(rows, dtype=torch.bool), weight)


def kl_rows(logits: Tensor, taught: Tensor) -> Tensor:
    """(A,) KL(softmax(taught) || softmax(logits)) of each row of logits (A, N), in float32 at least."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    log_p = torch.log_softmax(taught.to(logits.dtype), -1)  # (A, N), finite where p underflows to 0
    return (log_p.exp() * (log_p - torch.log_softmax(logits, -1))).sum(-1)


def alignment(x: Tensor, y: Tensor, alpha: float = 2.0, weight: Tensor | None = None) -> Tensor:
    """Mean distance^alpha of positive pairs x, y (n, D) on the unit sphere (arXiv:2005.10242, section 4.1.1).

    0 is perfect; 4 is the largest value for alpha = 2. If the pairs have weights (n,), the mean is weighted.
    """
    distance = torch.linalg.vector_norm(normalize(x) - normalize(y), dim=-1)  # (n,)
    return weighted_mean(distance.pow(alpha), weight)


def uniformity(x: Tensor, t: float = 2.0, *, mask: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
    """Log of the mean of e^{-t |u - v|^2} over distinct pairs of x (n, D) on the unit sphere (arXiv:2005.10242, 4.1.2).

    0 when all vectors are equal; smaller is more uniform (-2t for antipodal pairs). t > 0 is the kernel's sharpness.
    Two rows are a pair where the mask (n, n) is True; it counts by the product of their weights (n,); 0 without a pair.
    """
    kernel = torch.pdist(normalize(x)).pow(2).mul(-t).exp()  # (n (n - 1) / 2,)
    if mask is None and weight is None:
        return kernel.mean().log()
    i, j = torch.triu_indices(len(x), len(x), 1, device=x.device)  # the order of pdist
    counted = torch.ones_like(kernel) if weight is None else (weight[i] * weight[j]).to(kernel.dtype)
    counted = counted if mask is None else counted * mask[i, j]
    total = counted.sum()
    return torch.where(total > 0, (kernel * counted).sum(), 1.0).log() - torch.where(total > 0, total, 1.0).log()


def energy_hinge(cosine: Tensor, positive: Tensor, *, margin: float, mask: Tensor | None = None) -> Tensor:
    """PromCSE's energy-based hinge: each positive must exceed the hardest negative by a margin (arXiv:2203.06875).

        max(0, margin + max_{n not positive} cos_in - cos_ip)        of the rows i and their positives p

    Cosines (A, N) are raw, not divided by a temperature; a margin of 0 asks for order only, -2 for nothing. The result
    (A,) is the mean over a row's positives, and 0 for a row without positives or without negatives.
    """
    present = torch.ones_like(cosine, dtype=torch.bool) if mask is None else mask
    own, negative = present & (positive > 0), present & (positive <= 0)
    hardest = cosine.masked_fill(~negative, -torch.inf).amax(-1, keepdim=True)  # (A, 1)
    gaps = F.relu(margin + hardest - cosine).masked_fill(~own, 0.0)  # (A, N)
    return gaps.sum(-1) / own.sum(-1).clamp_min(1)


def triplet(anchor: Tensor, positive: Tensor, negative: Tensor, *, distance: Distance, margin: float) -> Tensor:
    """The triplet hinge: the negative must be farther from the anchor than the positive by a margin.

        max(0, d(a, p) - d(a, n) + m)

    d is `paired_distance`. The vectors broadcast: (B, 1, 1, D), (B, P, 1, D) and (B, 1, K, D) give (B, P, K).
    """
    near, far = paired_distance(anchor, positive, distance), paired_distance(anchor, negative, distance)
    return F.relu(near - far + margin)
