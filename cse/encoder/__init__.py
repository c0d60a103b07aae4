"""Text to vector: backbone, pooler, heads, and the checkpoint on disk."""

from __future__ import annotations

from cse.errors import on_demand

__getattr__, __all__ = on_demand(__name__)
