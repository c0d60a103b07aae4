"""Modules after the pooler. Those that are exported have a counterpart of the same name in sentence-transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cse.encoder.checkpoint.layout import Dense as StoredDense
from cse.encoder.checkpoint.layout import Layout, Module
from cse.encoder.checkpoint.sums import check_weights

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ACTIVATIONS: dict[str, type[nn.Module]] = {"identity": nn.Identity, "tanh": nn.Tanh, "relu": nn.ReLU, "gelu": nn.GELU}


def in_float32(layer: nn.Module, x: Tensor) -> Tensor:
    """Apply a layer to x, in float32 at least, whatever the autocast.

    A cosine of vectors in bfloat16 is wrong by 2^-9, which a temperature of 0.05 makes 0.04 of a logit.
    """
    if not torch.is_autocast_enabled(x.device.type):  # a traced graph then holds the layer alone
        return cast(Tensor, layer(x))
    with torch.autocast(x.device.type, enabled=False):
        return cast(Tensor, layer(x if x.dtype == torch.float64 else x.float()))


class Dense(nn.Module):
    """A linear layer and an activation: (n, in) -> (n, out). SimCSE's head is one with tanh, as wide as the backbone.

    It computes in float32 under autocast too, since the loss compares what it makes.
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

    @classmethod
    def of(cls, matrix: NDArray[np.floating], bias: NDArray[np.floating]) -> Dense:
        """The layer x -> x matrix + bias without an activation; the matrix is (in, out)."""
        made = cls(*matrix.shape, activation="identity")
        with torch.no_grad():
            made.linear.weight.copy_(torch.from_numpy(matrix.T.copy()))
            made.linear.bias.copy_(torch.from_numpy(bias))
        return made

    def forward(self, x: Tensor) -> Tensor:
        """(n, in) -> (n, out)."""
        return self.activation(in_float32(self.linear, x))

    def describe(self) -> StoredDense:
        """The settings that a checkpoint keeps."""
        linear = self.linear
        return StoredDense(linear.in_features, linear.out_features, linear.bias is not None, self.activation_name)

    def save(self, folder: Path) -> None:
        """Write the weights into the module's folder of a checkpoint."""
        from safetensors.torch import save_file

        state = {k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()}
        save_file(state, folder / "model.safetensors")


HeadName = Literal["none", "mlp", "relu_mlp"]


def new_head(name: HeadName, size: int) -> list[nn.Module]:
    """The modules of a new head on vectors of `size` numbers."""
    if name == "relu_mlp":
        return [Dense(size, size, activation="relu"), Dense(size, size, activation="identity")]
    return [Dense(size, size)] if name == "mlp" else []


class Normalize(nn.Module):
    """Unit length: (n, D) -> (n, D)."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, D) -> (n, D)."""
        return F.normalize(x, dim=-1)


class Truncate(nn.Module):
    """The first dimensions, as `truncate_dim` of sentence-transformers keeps them: (n, D) -> (n, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        """(n, D) -> (n, width)."""
        return x[:, : self.width]


class Post(nn.Sequential):
    """The modules after pooling, each a Dense, a Normalize, or at the end a Truncate: (n, H) -> (n, D)."""

    @classmethod
    def load(cls, stored: Layout, checkpoint: Path) -> Post:
        """Read the modules of a checkpoint, and the cut that it asks for, if that makes its vectors shorter."""
        modules: list[nn.Module] = [load_module(module, checkpoint) for module in stored.post]
        return cls(*modules, *([Truncate(stored.cut)] if stored.cut is not None else []))

    def size(self, width: int) -> int:
        """D, the size of a vector that had `width` numbers before these modules."""
        for module in self:
            if isinstance(module, Dense):
                width = int(module.linear.out_features)
            elif isinstance(module, Truncate):
                width = min(width, module.width)
        return width

    def first(self, vectors: Tensor, width: int) -> Tensor:
        """The first dimensions of vectors (n, D), scaled to unit length again if the last module scales them."""
        if width == vectors.shape[1]:
            return vectors
        return F.normalize(vectors[:, :width], dim=-1) if self.scales else vectors[:, :width]

    @property
    def scales(self) -> bool:
        """Tell whether the last module scales vectors to unit length."""
        return len(self) > 0 and isinstance(self[-1], Normalize)

    def truncate(self, size: int, width: int) -> Post:
        """Keep the first dimensions, as `first` does, of vectors that had `size` numbers before these modules.

        A Dense does it: versions of sentence-transformers below 5.4 do not read `truncate_dim` from a checkpoint, and
        none scales vectors again after that cut.
        """
        scales = self.scales
        if len(self) and isinstance(self[-1], Truncate):
            del self[-1]
        self.append(_keeping(self.size(size), width))
        self.extend([Normalize()] if scales else [])
        return self

    def join(self, size: int, *modules: nn.Module) -> Post:
        """Append modules behind vectors of `size` numbers; a cut before them becomes a Dense, since it must be last."""
        if len(self) and isinstance(self[-1], Truncate):
            width = self[-1].width
            del self[-1]
            self.append(_keeping(self.size(size), width))
        self.extend(modules)
        return self

    def describe(self) -> list[StoredDense | None]:
        """The settings of every Dense, and None for a Normalize, as a checkpoint keeps them."""
        return [module.describe() if isinstance(module, Dense) else None for module in self._stored()]

    def save(self, folder: Path, entries: Sequence[Module]) -> None:
        """Write the weights of every Dense into its folder of a checkpoint."""
        for module, entry in zip(self._stored(), entries, strict=True):
            if isinstance(module, Dense):
                module.save(folder / entry.path)

    def _stored(self) -> list[nn.Module]:
        return [module for module in self if not isinstance(module, Truncate)]


def _keeping(size: int, width: int) -> Dense:
    """The Dense that keeps the first `width` of `size` dimensions."""
    dense = Dense(size, width, bias=False, activation="identity")
    with torch.no_grad():
        dense.linear.weight.copy_(torch.eye(width, size))
    return dense


def load_module(module: Module, checkpoint: Path) -> Dense | Normalize:
    """Build a module after pooling as a checkpoint holds it."""
    if module.dense is None:
        return Normalize()
    from safetensors.torch import load_file

    sizes = module.dense
    weights = checkpoint / module.path / "model.safetensors"
    check_weights(weights.parent)
    if weights.exists():
        state = load_file(weights)
    else:
        state = torch.load(weights.with_name("pytorch_model.bin"), weights_only=True, map_location="cpu")
    if (found := tuple(state["linear.weight"].shape)) != (sizes.out_features, sizes.in_features):  # before it is built
        raise ValueError(f"{module.path} has weights {found}, and its config.json says {sizes}")
    dense = Dense(sizes.in_features, sizes.out_features, bias=sizes.bias, activation=sizes.activation)
    dense.load_state_dict(state)
    return dense
