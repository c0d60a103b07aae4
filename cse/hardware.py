"""What a run computes on, and how much memory it took."""

from __future__ import annotations

import resource
import sys

import torch
from accelerate import Accelerator

from cse import distributed


def describe(accelerator: Accelerator) -> str:
    """Such as `cpu×2 bf16`: device, processes, precision."""
    precision = "bf16" if accelerator.mixed_precision == "bf16" else "fp32"
    return f"{accelerator.device.type}×{distributed.world_size()} {precision}"


def peak_memory(device: torch.device) -> float:
    """Most memory used so far, in MB: of the device on CUDA, of the process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
