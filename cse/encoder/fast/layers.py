"""Faster layers of a CPU: dropout, the last layer for one token, converted weights, and fewer compiled products."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cse.encoder.fast.switch import enabled

LEVELS = 1 << 16  # a decision takes 16 bits
KNOWN = frozenset({"bert", "roberta", "xlm-roberta", "camembert", "electra"})
_passing: ContextVar[dict[nn.Module, Tensor] | None] = ContextVar("passing", default=None)
_CAPACITY = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
KEPT = 128  # asset:mini, 31 steps of 64: 1,255 MB at the same speed; 1,605 MB with 1,024


def dropout(values: Tensor, probability: float) -> Tensor:
    """Each value is 0 with a probability, else divided by one minus it (Srivastava et al., JMLR 2014).

    Random numbers come from torch's generator. On a CPU the probability is rounded to a multiple of 2^-16, and the
    divisor is computed from the rounded value, so that the expectation is exact.
    """
    if values.device.type != "cpu" or not enabled():
        return F.dropout(values, probability)
    dropped = round(probability * LEVELS)
    if not dropped:
        return values
    words = torch.empty(-(-values.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    lanes = words.view(torch.int16)[: values.numel()].view(values.shape)
    kept = lanes >= dropped - LEVELS // 2
    return values * kept.to(values.dtype).mul_(LEVELS / (LEVELS - dropped))


class FastDropout(nn.Dropout):
    """`torch.nn.Dropout`, computed by `dropout`."""

    def forward(self, input: Tensor) -> Tensor:
        """The values with some dropped, in training."""
        return dropout(input, self.p) if self.training and self.p > 0 else input


def use_fast_dropout(model: nn.Module) -> None:
    """Replace every `torch.nn.Dropout` in a model."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, FastDropout(child.p))


@contextmanager
def only_first_token(model: nn.Module) -> Iterator[None]:
    """Within, the last layer's states of a BERT-like model are (n, 1, H): those of the first token.

    Its attention reads all tokens as before; what follows is computed for one. Other architectures are not changed.
    Threads may overlap here: another thread's hook takes the first token of a tensor that holds only the first token.
    """
    config: Any = model.config
    if config.model_type not in KNOWN or not enabled():
        yield
        return
    last: Any = model.encoder
    hook = last.layer[-1].attention.output.register_forward_pre_hook(_first)
    try:
        yield
    finally:
        hook.remove()


def _first(module: nn.Module, states: tuple[Any, ...]) -> tuple[Any, ...]:
    """Keep the first token of what follows the attention: its mixed values and its residual, both (n, 1, H)."""
    return tuple(state[:, :1] for state in states)


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


def keep_few_primitives() -> None:
    """Keep the last `KEPT` compiled products, unless the environment has a number.

    It has an effect until the process computes its first such product, when oneDNN reads the variable.
    """
    os.environ.setdefault(_CAPACITY, str(KEPT))
