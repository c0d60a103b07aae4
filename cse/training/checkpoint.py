"""The state of a run: what it takes to go on bit for bit. Written whole or not at all, and checked when read."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cse.errors import UserError
from cse.files import atomic_dir, recover, sha256_file

TENSORS, ABOUT = "state.pt", "state.json"


@dataclass(slots=True)
class Progress:
    """Where a run is.

    Attributes:
        step: Optimizer steps taken.
        best: The best dev score so far, and `best_step` when.
        seconds: Time spent in training and evaluation, over all stretches.
        log_bytes: Length of metrics.jsonl, which is cut back to it on resume.
        finished: Whether the run has ended by itself.
        callbacks: Each callback's own state.
    """

    step: int = 0
    best: float | None = None
    best_step: int | None = None
    first: float | None = None
    seconds: float = 0.0
    log_bytes: int = 0
    finished: bool = False
    callbacks: dict[str, dict[str, Any]] = field(default_factory=dict)


def trained_state(module: nn.Module) -> dict[str, Tensor]:
    """Weights that are trained, and buffers; frozen weights come from where they came from at the start."""
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    frozen = {name for name, p in module.named_parameters() if not p.requires_grad}
    return {k: v for k, v in module.state_dict().items() if k in trained or k not in frozen}


def save_state(
    folder: Path,
    learner: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    negatives: Tensor | None = None,
) -> None:
    """Write `folder`, replacing an older one as a whole; `negatives` are those that were mined last."""
    with atomic_dir(folder) as out:
        content = {"learner": trained_state(learner), "optimizer": optimizer.state_dict()}
        torch.save(content if negatives is None else content | {"negatives": negatives}, out / TENSORS)
        about = {"progress": asdict(progress), "sha256": sha256_file(out / TENSORS)}
        (out / ABOUT).write_text(json.dumps(about, indent=2) + "\n")


def load_progress(folder: Path) -> Progress:
    """Where the run is, after checking that its state is whole.

    Raises:
        UserError: There is no state, or it is damaged.
    """
    recover(folder)
    about_path = folder / ABOUT
    if not about_path.exists():
        raise UserError(f"--resume {folder.parent}: no {folder.name}/{ABOUT} there, so nothing was saved to go on from")
    try:
        about = json.loads(about_path.read_text())
        progress = Progress(**about["progress"])
        whole = sha256_file(folder / TENSORS) == about["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise UserError(
            f"--resume {folder.parent}: {folder / TENSORS} is damaged (its sha256 is not the recorded one)\n"
            "fix: start the run again, or publish its best/ as it is"
        )
    return progress


def load_tensors(folder: Path, learner: nn.Module, optimizer: torch.optim.Optimizer) -> Tensor | None:
    """Take weights and optimizer state back; returns the negatives that were mined last, if any were."""
    saved = torch.load(folder / TENSORS, map_location="cpu", weights_only=True)
    missing, unexpected = learner.load_state_dict(saved["learner"], strict=False)
    trained = set(trained_state(learner))
    if unexpected or trained & set(missing):
        raise UserError(
            f"--resume {folder.parent}: its weights are not those of its recipe: {unexpected or missing}"[:400]
        )
    optimizer.load_state_dict(saved["optimizer"])
    negatives: Tensor | None = saved.get("negatives")
    return negatives
