"""A run as its callbacks see it, and what a callback may do."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cse.data.datasets import Dataset
from cse.encoder.model import Encoder
from cse.interfaces import Collator, Evaluator, Objective, Sampler
from cse.training.checkpoint import Progress
from cse.training.settings import Settings

if TYPE_CHECKING:
    from cse.mining.refresh import RefreshNegatives


class Callback(ABC):  # noqa: B024 - a watcher may watch anything, and nothing
    """Watches a run. Each method does nothing unless overridden, and none may change training."""

    def on_start(self, run: Run) -> None:  # noqa: B027
        """Before the first step, with everything built."""

    def on_step(self, run: Run, metrics: dict[str, float]) -> None:  # noqa: B027
        """After each optimizer step."""

    def on_eval(self, run: Run, metrics: dict[str, float]) -> None:  # noqa: B027
        """After each evaluation."""

    def on_end(self, run: Run) -> None:  # noqa: B027
        """After the last step, or on the way out of an interrupted run."""

    def state(self) -> dict[str, Any]:
        """What must survive an interruption, as JSON."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Take `state()` back on resume."""


@dataclass(slots=True)
class Run:
    """Everything about one run, as callbacks see it."""

    name: str
    folder: Path
    seed: int
    data: Dataset
    collator: Collator
    encoder: Encoder
    objective: Objective
    evaluator: Evaluator | None
    settings: Settings
    sampler: Sampler | None = None
    negatives: RefreshNegatives | None = None
    callbacks: Sequence[Callback] = ()
    progress: Progress = field(default_factory=Progress)
    max_steps: int = 0
    truncated: int = 0
    hardware: str = ""
    interrupted: bool = False
