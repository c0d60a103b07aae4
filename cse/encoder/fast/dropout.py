"""Dropout that draws four decisions from one random number: drawing took a tenth of a training step on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cse.encoder.fast.switch import enabled

LEVELS = 1 << 16  # a decision takes 16 bits


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
