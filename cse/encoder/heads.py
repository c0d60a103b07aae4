"""Modules after the pooler. Those that are exported have a counterpart of the same name in sentence-transformers."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {"identity": nn.Identity, "tanh": nn.Tanh, "relu": nn.ReLU, "gelu": nn.GELU}


class Dense(nn.Module):
    """A linear layer and an activation: (n, in) -> (n, out). SimCSE's head is one with tanh, as wide as the backbone.

    Weights start from N(0, 0.02) and biases from 0, as heads in the BERT family do.
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool = True, activation: str = "tanh") -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features, bias=bias)
        nn.init.normal_(self.linear.weight, std=0.02)
        if bias:
            nn.init.zeros_(self.linear.bias)
        self.activation_name = activation
        self.activation = ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        """(n, in) -> (n, out)."""
        out: Tensor = self.activation(self.linear(x))
        return out


class Normalize(nn.Module):
    """Unit length: (n, D) -> (n, D)."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, D) -> (n, D)."""
        return F.normalize(x, dim=-1)
