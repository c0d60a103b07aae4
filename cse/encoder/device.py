"""The device that a model runs on, by name."""

from __future__ import annotations

from typing import Any, Literal

import torch

from cse.errors import UserError

Device = Literal["auto", "cpu", "cuda", "mps"]
ACCELERATORS: dict[str, Any] = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}


def available(wanted: str) -> str:
    """The accelerator of this machine that is wanted, or any if `wanted` is auto; `cpu` if there is none."""
    found = [name for name, is_available in ACCELERATORS.items() if wanted in {"auto", name} and is_available()]
    return found[0] if found else "cpu"


def choose(wanted: Device = "auto") -> str:
    """The device of that name; `auto` is the accelerator of this machine, or the CPU.

    Raises:
        UserError: This machine has no such device.
    """
    found = available(wanted)
    if wanted not in {"auto", found}:
        raise UserError(f"--device is {wanted}, but this machine has no such device\nfix: use auto or cpu")
    return found
