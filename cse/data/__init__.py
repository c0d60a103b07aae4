"""The path of rows of text to a batch: sources, data sets, tokens, collators, samplers, checks."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cse.data.collators import AugmentedViews, Masked, TextViews
    from cse.data.datasets import Dataset, Pairs, ScoredPairs, Texts, Triplets
    from cse.data.samplers import ClusterBatches, LabelBatches, NoDuplicates

_HOMES = {
    "AugmentedViews": "collators",
    "ClusterBatches": "samplers",
    "Dataset": "datasets",
    "LabelBatches": "samplers",
    "Masked": "collators",
    "NoDuplicates": "samplers",
    "Pairs": "datasets",
    "ScoredPairs": "datasets",
    "TextViews": "collators",
    "Texts": "datasets",
    "Triplets": "datasets",
}
__all__ = [
    "AugmentedViews",
    "ClusterBatches",
    "Dataset",
    "LabelBatches",
    "Masked",
    "NoDuplicates",
    "Pairs",
    "ScoredPairs",
    "TextViews",
    "Texts",
    "Triplets",
]


def __getattr__(name: str) -> Any:
    """Import a class when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'cse.data' has no attribute {name!r}")
    return getattr(import_module(f"cse.data.{_HOMES[name]}"), name)
