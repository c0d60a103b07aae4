"""The device that a model runs on, by name, the number format of a computation, and the state for encoding."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from cse.encoder.fast.batching import native_bf16
from cse.encoder.fast.layers import converted_once
from cse.errors import UserError

Device = Literal["auto", "cpu", "cuda", "mps"]
ACCELERATORS: dict[str, Any] = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
Precision = Literal["auto", "fp32", "bf16", "fp16"]


def placed(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the host to a device, without waiting until the device has nothing else to do."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()  # from other memory a copy is not asynchronous
    return tensor.to(device, non_blocking=True)


def numbers(scalars: Sequence[Tensor]) -> list[float]:
    """Scalars as Python's numbers; those of a GPU in one copy, so that the host waits once for all of them."""
    if all(scalar.device.type != "cuda" for scalar in scalars):
        return [float(scalar) for scalar in scalars]
    return torch.stack([scalar.detach().double().reshape(()) for scalar in scalars]).tolist()


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
        raise UserError(f"--device is {wanted}, {why_absent(wanted)}\nfix: use auto or cpu")
    return found


def why_absent(wanted: str) -> str:
    """Say why this machine does not have a device."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if wanted == "cuda" and torch.version.cuda is None:
        return f"and torch {torch.__version__} is built without CUDA"
    if wanted == "cuda" and visible is not None:
        return f"and no GPU of this machine has a number in CUDA_VISIBLE_DEVICES={visible!r}"
    return "but this machine has no such device"


def resolved(precision: str, device: torch.device) -> Literal["fp32", "bf16", "fp16"]:
    """The number format of products on a device; `auto` is bf16 where the hardware computes it, else fp32.

    Raises:
        UserError: The precision does not exist, or the device does not compute it.
    """
    if precision not in get_args(Precision):
        raise UserError(f"precision is {precision!r}\nfix: give one of {', '.join(get_args(Precision))}")
    if precision == "bf16" and device.type == "cuda" and not native_bf16(device):
        raise UserError(f"precision is bf16, {without_bf16()}\nfix: use fp16 or fp32")
    if precision == "fp16" and device.type != "cuda":
        raise UserError("precision is fp16, which needs a CUDA GPU\nfix: use auto, bf16 or fp32")
    if precision == "auto":
        return "bf16" if native_bf16(device) else "fp32"
    return cast("Literal['fp32', 'bf16', 'fp16']", precision)


def without_bf16() -> str:
    """Say that the GPU does not compute bfloat16."""
    return f"which {torch.cuda.get_device_name()} does not compute: that takes compute capability 8.0"


@contextmanager
def inference(model: nn.Module, precision: Precision, device: torch.device) -> Iterator[None]:
    """Within, the model is in evaluation mode, nothing keeps gradients, and products are in `precision`."""
    training = model.training
    model.eval()
    named = resolved(precision, device)
    dtype = torch.float16 if named == "fp16" else torch.bfloat16
    try:
        with torch.inference_mode(), converted_once(), torch.autocast(device.type, dtype, enabled=named != "fp32"):
            yield
    finally:
        model.train(training)
