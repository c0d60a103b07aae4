"""Whitening: making channels uncorrelated and of unit variance."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

Covariance = Literal["detached", "differentiable"]


def group_whiten(
    x: Tensor, group_size: int, *, permutation: Tensor | None = None, covariance: Covariance = "detached"
) -> Tensor:
    """ZCA-whiten the rows of x (n, D) within each group of `group_size` channels: (n, D), float32 at least.

        y_g = (x_g - mean) S_g^{-1/2},    S_g = (x_g - mean)^T (x_g - mean) / n

    Group whitening (Huang et al., CVPR 2021, arXiv:2009.13333); one group is plain ZCA whitening. A
    direction without variance (a constant or repeated channel) cannot be scaled to 1 and is mapped to 0.

    Args:
        x: n rows, more than `group_size`: fewer cannot have a covariance of full rank.
        group_size: Channels in a group; it divides D.
        permutation: (D,) the order in which channels are put before adjacent ones are grouped; undone afterwards.
        covariance: Whether the gradient passes through S as well, or through x - mean alone.

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
        matrix = centered.mT @ centered / rows  # (G, d, d)
        square = groups.detach().square().mean((1, 2))  # (G,)
        rounding = (32 * torch.finfo(x.dtype).eps) ** 2 * square  # the variance that rounding gives to a constant
        root = inverse_sqrt(matrix.detach() if covariance == "detached" else matrix, rounding)
        white: Tensor = (centered @ root).transpose(0, 1).reshape(rows, channels)
        return white if permutation is None else white[:, permutation.argsort()]


def inverse_sqrt(matrix: Tensor, floor: Tensor) -> Tensor:
    """S^{-1/2} of symmetric non-negative matrices (G, d, d).

    Eigenvalues up to rounding or `floor` (G,) count as 0, and their directions are mapped to 0. Differentiable
    everywhere, in closed form (Daleckii and Krein): with S = U diag(l) U^T and f = l^{-1/2},

        dF = U ( K * U^T dS U ) U^T,    K_ij = (f_i - f_j) / (l_i - l_j) = - f_i^2 f_j^2 / (f_i + f_j)

    in which the last form has no pole where eigenvalues coincide, unlike the derivative of the eigenvectors.
    """
    root: Tensor = _InverseSqrt.apply(matrix, floor)  # type: ignore[no-untyped-call, unused-ignore]
    return root


class _InverseSqrt(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrix: Tensor, floor: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(matrix)  # (G, d) ascending, (G, d, d)
        rounding = matrix.shape[-1] * torch.finfo(matrix.dtype).eps * values[:, -1]
        kept = values > torch.maximum(rounding, floor)[:, None]
        f = torch.where(kept, values, torch.ones_like(values)).rsqrt() * kept
        ctx.save_for_backward(f, vectors)
        root: Tensor = (vectors * f[:, None]) @ vectors.mT
        return root

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        f, vectors = ctx.saved_tensors
        product, total = f[:, :, None] * f[:, None, :], f[:, :, None] + f[:, None, :]
        slope = -(product**2) / total.clamp_min(torch.finfo(f.dtype).tiny)
        return vectors @ (slope * (vectors.mT @ grads[0] @ vectors)) @ vectors.mT, None
