"""The path of rows of text to a batch: sources, data sets, tokens, collators, samplers, checks."""

from __future__ import annotations

from cse.errors import on_demand

__getattr__, __all__ = on_demand(__name__)
