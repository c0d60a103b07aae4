"""The files from which a run resumes bit for bit: state/, which is replaced as a whole, and metrics.jsonl."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from cse.errors import UserError
from cse.files import atomic_dir, read_json, recover, sha256_file, write_json
from cse.training.learner import Learner

TENSORS, ABOUT = "state.pt", "state.json"


@dataclass(slots=True)
class Progress:
    """The progress of a run.

    Attributes:
        step: Optimizer steps taken.
        best: The best dev score so far.
        best_step: The step of the best score.
        first: The dev score before training.
        seconds: Time spent on training and evaluation, without interruptions.
        log_bytes: Length of metrics.jsonl, which is cut back to it when the run resumes.
        finished: Whether the run is complete.
    """

    step: int = 0
    best: float | None = None
    best_step: int | None = None
    first: float | None = None
    seconds: float = 0.0
    log_bytes: int = 0
    finished: bool = False


def trained_state(learner: Learner) -> dict[str, Tensor]:
    """All weights and buffers but those weights of the encoder that stand still: they are read from the backbone again.

    Weights without gradient elsewhere are part of it, since they move in other ways: copies that follow the encoder.
    """
    frozen = {id(p) for p in learner.encoder.parameters() if not p.requires_grad}
    shared = {name for name, p in learner.named_parameters(remove_duplicate=False) if id(p) in frozen}
    return {name: value for name, value in learner.state_dict().items() if name not in shared}


def save_state(
    folder: Path,
    learner: Learner,
    optimizers: Sequence[torch.optim.Optimizer],
    progress: Progress,
    rows: Mapping[str, Tensor],
    scaler: torch.amp.GradScaler | None = None,
) -> None:
    """Write `folder`, replacing an older one as a whole.

    Args:
        folder: The folder.
        learner: The weights.
        optimizers: The optimizers.
        progress: The progress of the run.
        rows: The state of the row source.
        scaler: What scales the loss in fp16.
    """
    with atomic_dir(folder) as out:
        states = [optimizer.state_dict() for optimizer in optimizers]
        content = {"learner": trained_state(learner), "optimizers": states, "rows": dict(rows)}
        content["scaler"] = {} if scaler is None else scaler.state_dict()
        torch.save(content, out / TENSORS)
        about = {"progress": asdict(progress), "sha256": sha256_file(out / TENSORS)}
        write_json(out / ABOUT, about)


def load_progress(folder: Path) -> Progress:
    """The progress of the run, after a check that its saved state is undamaged.

    Raises:
        UserError: There is no state, or it is damaged.
    """
    recover(folder)
    about_path = folder / ABOUT
    if not about_path.exists():
        raise UserError(
            f"--resume {folder.parent}: {about_path} does not exist, so there is no saved state to resume from\n"
            "fix: start the run again"
        )
    try:
        about = read_json(about_path)
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


def load_tensors(
    folder: Path,
    learner: Learner,
    optimizers: Sequence[torch.optim.Optimizer],
    scaler: torch.amp.GradScaler | None = None,
) -> dict[str, Tensor]:
    """Load weights and the state of the optimizers and of the loss's scaler; returns the state of the row source.

    Raises:
        UserError: The state belongs to other weights.
    """
    saved = torch.load(folder / TENSORS, map_location="cpu", weights_only=True)
    missing, unexpected = learner.load_state_dict(saved["learner"], strict=False)
    absent = sorted(set(trained_state(learner)) & set(missing))
    if unexpected or absent:
        names = ", ".join(unexpected or absent)[:200]
        raise UserError(
            f"--resume {folder.parent}: the saved weights do not fit the recipe: {names}\n"
            "fix: resume with the recipe.yaml that the run was started with"
        )
    for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
        optimizer.load_state_dict(state)
    if scaler is not None:
        scaler.load_state_dict(saved["scaler"])
    rows: dict[str, Tensor] = saved["rows"]
    return rows


class MetricsLog:
    """metrics.jsonl: one line for each evaluation. It is only appended to, or cut to the length in the saved state."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def cut(self, size: int) -> None:
        """Drop everything after the first `size` bytes."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.truncate(size)

    def append(self, record: Mapping[str, float]) -> int:
        """Add a line; returns the file's length in bytes."""
        with self.path.open("ab") as file:
            file.write((json.dumps(record) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())  # the state that counts these bytes is written next
            return file.tell()
