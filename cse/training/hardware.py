"""What a run computes on, and how much memory it takes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState

from cse import distributed
from cse.encoder.fast.batching import native_bf16
from cse.errors import UserError


def accelerator(device: str, precision: str, trackers: Sequence[str]) -> Accelerator:
    """Accelerate on the device and in the precision that a trainer asks for.

    Raises:
        UserError: The machine has no such device.
    """
    available: dict[str, Any] = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if device in available and not available[device]():
        raise UserError(f"trainer.device is {device}, and this machine has none; give auto or cpu")
    chosen = next((d for d, ok in available.items() if ok()), "cpu") if device == "auto" else device
    bf16 = precision == "bf16" or (precision == "auto" and native_bf16(chosen))
    AcceleratorState._reset_state()  # it would keep the precision of an earlier run in this process
    return Accelerator(
        cpu=chosen == "cpu",
        mixed_precision="bf16" if bf16 else "no",
        log_with=list(trackers) or None,
        project_dir=None,
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )


def describe(accelerator: Accelerator) -> str:
    """Such as `cpu×2 bf16`: device, processes, precision."""
    precision = "bf16" if accelerator.mixed_precision == "bf16" else "fp32"
    return f"{accelerator.device.type}×{distributed.world_size()} {precision}"


def peak_memory(device: torch.device) -> float:
    """Most memory used so far, in MB: of the device on CUDA, of the process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == "win32":
        import psutil  # a dependency of accelerate

        return float(psutil.Process().memory_info().peak_wset) / 2**20
    import resource  # exists on Unix only

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
