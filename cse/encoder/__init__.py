"""Text to vector: backbone, pooler, heads, and the checkpoint on disk."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cse.encoder.model import Encoder
    from cse.encoder.prefix_encoder import PrefixEncoder

_HOMES = {
    "Encoder": "model",
    "PrefixEncoder": "prefix_encoder",
}
__all__ = [
    "Encoder",
    "PrefixEncoder",
]


def __getattr__(name: str) -> Any:
    """Import a class when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'cse.encoder' has no attribute {name!r}")
    return getattr(import_module(f"cse.encoder.{_HOMES[name]}"), name)
