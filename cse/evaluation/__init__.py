"""Scores that can be trusted: tasks, the STS engine, retrieval of rows, transfer, significance, reports."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cse.evaluation.evaluator import STSEvaluator

_HOMES = {
    "STSEvaluator": "evaluator",
}
__all__ = [
    "STSEvaluator",
]


def __getattr__(name: str) -> Any:
    """Import a class when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'cse.evaluation' has no attribute {name!r}")
    return getattr(import_module(f"cse.evaluation.{_HOMES[name]}"), name)
