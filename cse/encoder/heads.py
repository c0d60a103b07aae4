"""Modules after the pooler. Those that are exported have a counterpart of the same name in sentence-transformers."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cse.encoder import layout

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

    def describe(self) -> layout.Dense:
        """The settings that a checkpoint keeps."""
        linear = self.linear
        return layout.Dense(linear.in_features, linear.out_features, linear.bias is not None, self.activation_name)

    def save(self, folder: Path) -> None:
        """Write the weights into the module's folder of a checkpoint."""
        from safetensors.torch import save_file

        state = {k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()}
        save_file(state, folder / "model.safetensors")


class Normalize(nn.Module):
    """Unit length: (n, D) -> (n, D)."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, D) -> (n, D)."""
        return F.normalize(x, dim=-1)


def load_module(module: layout.Module, checkpoint: Path) -> Dense | Normalize:
    """Build a module after pooling as a checkpoint holds it."""
    if module.dense is None:
        return Normalize()
    from safetensors.torch import load_file

    sizes = module.dense
    dense = Dense(sizes.in_features, sizes.out_features, bias=sizes.bias, activation=sizes.activation)
    weights = checkpoint / module.path / "model.safetensors"
    if weights.exists():
        state = load_file(weights)
    else:
        state = torch.load(weights.with_name("pytorch_model.bin"), weights_only=True, map_location="cpu")
    dense.load_state_dict(state)
    return dense
