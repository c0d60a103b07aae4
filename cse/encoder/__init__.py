"""Text to vector: backbone, pooler, heads, and the checkpoint on disk."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cse.encoder.adapter import Adapter
    from cse.encoder.dropout import Dropout
    from cse.encoder.lora import Lora
    from cse.encoder.model import Encoder
    from cse.encoder.soft_prompts import SoftPrompts

_HOMES = {
    "Adapter": "adapter",
    "Dropout": "dropout",
    "Encoder": "model",
    "Lora": "lora",
    "SoftPrompts": "soft_prompts",
}
__all__ = ["Adapter", "Dropout", "Encoder", "Lora", "SoftPrompts"]


def __getattr__(name: str) -> Any:
    """Import a class when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'cse.encoder' has no attribute {name!r}")
    return getattr(import_module(f"cse.encoder.{_HOMES[name]}"), name)
