"""The implementation of attention: it changes speed and memory, not what is computed. Checkpoints do not name it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import torch

from cse.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Kernel = Literal["auto", "eager", "sdpa", "flash_attention_2", "flash_attention_3"]
PACKAGES = {"flash_attention_2": ("flash_attn", "flash-attn"), "flash_attention_3": ("flash_attn_interface", "")}


def check_kernel(kernel: Kernel, attention: str) -> None:
    """Check that this machine has a kernel.

    Raises:
        UserError: The kernel is missing here, or does not go with the attention.
    """
    if kernel not in PACKAGES:
        return
    module, package = PACKAGES[kernel]
    if not torch.cuda.is_available():
        problem, fix = "needs a CUDA GPU", "remove encoder.attention_kernel"
    elif importlib.util.find_spec(module) is None:
        problem = f"needs the package {module}"
        fix = f"pip install {package}" if package else "build it from the source of flash-attention, or use sdpa"
    elif attention == "bidirectional":
        problem, fix = "is not known to obey encoder.attention=bidirectional", "use sdpa"
    else:
        return
    raise UserError(f"encoder.attention_kernel is {kernel}, which {problem}\nfix: {fix}")


def use_kernel(model: PreTrainedModel, kernel: Kernel) -> None:
    """Let a backbone compute its attention by this kernel.

    Raises:
        UserError: The backbone does not support it.
    """
    if kernel == "auto":
        return
    try:
        model.set_attn_implementation(kernel)
    except (ValueError, ImportError) as error:
        kind = model.config.model_type
        reason = (str(error).strip() or "no reason given").splitlines()[0][:160]
        raise UserError(
            f"encoder.attention_kernel is {kernel}, which a {kind} backbone cannot use: {reason}\nfix: use auto"
        ) from error


@contextmanager
def kernel_of_precision(model: PreTrainedModel) -> Iterator[None]:
    """Within, a backbone with flash attention, which computes in 16 bits only, uses sdpa if products are in float32."""
    kernel = model.config._attn_implementation
    if kernel not in PACKAGES or model.dtype != torch.float32 or torch.is_autocast_enabled(model.device.type):
        yield
        return
    model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        model.set_attn_implementation(kernel)
