"""The device that a model runs on, by name, the number format of a computation, and the state for encoding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from cse.encoder.fast.batching import native_bf16
from cse.encoder.fast.layers import converted_once
from cse.errors import UserError

Device = Literal["auto", "cpu", "cuda", "mps"]
ACCELERATORS: dict[str, Any] = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
Precision = Literal["auto", "fp32", "bf16"]


def placed(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the host to a device, without waiting until the device has nothing else to do."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()  # from other memory a copy is not asynchronous
    return tensor.to(device, non_blocking=True)


def numbers(scalars: Sequence[Tensor]) -> list[float]:
    """Scalars as Python's numbers; those of a GPU in one copy, so that the host waits once for all of them."""
    if all(scalar.device.type != "cuda" for scalar in scalars):
        return [float(scalar) for scalar in scalars]
    found: list[float] = torch.stack([scalar.detach().double().reshape(()) for scalar in scalars]).tolist()
    return found


def places(mask: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """The rows and the columns (m,) of the m True places of a mask (n, L) on the host; a mask as index would wait."""
    row, column = mask.nonzero(as_tuple=True)
    return placed(row, device), placed(column, device)


def available(wanted: str) -> str:
    """The accelerator of this machine that is wanted, or any if `wanted` is auto; `cpu` if there is none."""
    found = [name for name, is_available in ACCELERATORS.items() if wanted in {"auto", name} and is_available()]
    return found[0] if found else "cpu"


def choose(wanted: Device = "auto") -> str:
    """The device of that name; `auto` is the accelerator of this machine, or the CPU."""
    found = available(wanted)
    if wanted not in {"auto", found}:
        raise UserError(f"--device is {wanted}, but this machine has no such device\nfix: use auto or cpu")
    return found


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Whether to compute in bfloat16."""
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
