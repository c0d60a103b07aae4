"""Linear layers that convert a weight to autocast's type once; autocast converts one without gradient at every use.

The conversions took a sixth of a LoRA training step on a CPU in five sub-batches, and as much of scoring. The copy
holds the same numbers. The copy of a frozen weight is kept, at two bytes per weight. Other copies last for one
`converted_once`, because an optimizer may change a weight without a trace (torch's fused ones do not raise its
version).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cse.encoder.fast.switch import enabled

_passing: ContextVar[dict[nn.Module, Tensor] | None] = ContextVar("passing", default=None)


class Linear(nn.Linear):
    """`torch.nn.Linear` that keeps its weight in autocast's type while the weight stays as it is."""

    _kept: tuple[object, Tensor] | None = None

    def forward(self, input: Tensor) -> Tensor:
        """The rows times the weight's transpose, plus the bias."""
        device = input.device.type
        converts = device == "cpu" and torch.is_autocast_enabled(device) and not self.weight.is_inference()
        if not converts or not enabled():
            return super().forward(input)
        weight = self._converted(torch.get_autocast_dtype(device))
        return super().forward(input) if weight is None else F.linear(input, weight, self.bias)

    def _converted(self, dtype: torch.dtype) -> Tensor | None:
        """The weight in that type, if it may be kept."""
        if not self.weight.requires_grad:
            return self._frozen(dtype)
        passing = _passing.get()
        if passing is None or torch.is_grad_enabled():
            return None
        if self not in passing:
            passing[self] = self.weight.detach().to(dtype)
        return passing[self]

    def _frozen(self, dtype: torch.dtype) -> Tensor:
        key = (dtype, self.weight.data_ptr(), self.weight._version)
        kept = self._kept  # threads may share the layer
        if kept is None or kept[0] != key:
            with torch.inference_mode(False), torch.no_grad():  # training may need what scoring converted
                kept = self._kept = (key, self.weight.detach().to(dtype))
        return kept[1]


@contextmanager
def converted_once() -> Iterator[None]:
    """Within, weights do not change, so those used without gradient are converted once; nesting has no further effect.

    Threads take part where they run in a copy of the context.
    """
    if _passing.get() is not None:
        yield
        return
    token = _passing.set({})
    try:
        yield
    finally:
        _passing.reset(token)


def use_kept_weights(model: nn.Module) -> None:
    """Give every `torch.nn.Linear` in a model this class; its parameters stay the same objects."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = Linear
