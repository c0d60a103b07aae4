"""Train sentence embeddings: every published contrastive method is one recipe away."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cse.batch import Batch, EncoderOutput, Example, LossOutput, Views
    from cse.encoder.model import Encoder
    from cse.interfaces import Collator, Evaluator, Objective, StepContext
    from cse.training.trainer import Trainer

__version__ = "0.1.0"
__all__ = [
    "Batch",
    "Collator",
    "Encoder",
    "EncoderOutput",
    "Evaluator",
    "Example",
    "LossOutput",
    "Objective",
    "StepContext",
    "Trainer",
    "Views",
]

_HOMES = {"Encoder": "encoder", "Trainer": "training.trainer"} | dict.fromkeys(
    ("Collator", "Evaluator", "Objective", "StepContext"), "interfaces"
)


def __getattr__(name: str) -> Any:
    """Import on first use: `cse --help` does not pay for torch."""
    if name not in __all__:
        raise AttributeError(f"module 'cse' has no attribute {name!r}")
    return getattr(import_module(f"cse.{_HOMES.get(name, 'batch')}"), name)
