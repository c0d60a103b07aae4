"""The number format of a computation, and the state in which a model encodes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch
from torch import nn

from cse.encoder.fast.batching import native_bf16
from cse.encoder.fast.weights import converted_once
from cse.errors import UserError

Precision = Literal["auto", "fp32", "bf16"]


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Whether to compute in bfloat16.

    Raises:
        UserError: There is no such precision.
    """
    if precision not in get_args(Precision):
        raise UserError(f"precision is {precision!r}\nfix: give one of {', '.join(get_args(Precision))}")
    return precision == "bf16" or (precision == "auto" and native_bf16(device))


@contextmanager
def inference(model: nn.Module, precision: Precision, device: torch.device) -> Iterator[None]:
    """Within, the model is in evaluation mode, nothing keeps gradients, and products are in `precision`."""
    training = model.training
    model.eval()
    bf16 = uses_bf16(precision, device)
    try:
        with torch.inference_mode(), converted_once(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            yield
    finally:
        model.train(training)
