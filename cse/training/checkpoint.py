"""The files from which a run resumes bit for bit: state/, which is replaced as a whole, and metrics.jsonl."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cse import distributed
from cse.errors import UserError
from cse.files import atomic_dir, read_json, recover, sha256_file, write_json
from cse.training import shards
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


def save_state(
    folder: Path,
    learner: Learner,
    optimizers: Sequence[torch.optim.Optimizer],
    progress: Progress,
    rows: Mapping[str, Tensor],
    scaler: torch.amp.GradScaler | None = None,
    *,
    sharded: bool = False,
) -> None:
    """Write `folder`, replacing an older one as a whole. All processes call this together, and continue together.

    Args:
        folder: The folder.
        learner: The weights.
        optimizers: The optimizers.
        progress: The progress of the run.
        rows: The state of the row source.
        scaler: What scales the loss in fp16.
        sharded: Whether every process writes its shares of weights and optimizers. Otherwise the first one writes all.
    """
    first = distributed.rank() == 0
    with atomic_dir(folder) if first else nullcontext() as made:
        content: dict[str, Any] = {"rows": dict(rows), "scaler": {} if scaler is None else scaler.state_dict()}
        about: dict[str, Any] = {"progress": asdict(progress)}
        if sharded:
            about["shards"] = shards.save(distributed.broadcast(made), learner, optimizers)
        elif first:
            states = [optimizer.state_dict() for optimizer in optimizers]
            content |= {"learner": learner.trained_state(), "optimizers": states}
        if made is not None:
            torch.save(content, made / TENSORS)
            write_json(made / ABOUT, about | {"sha256": sha256_file(made / TENSORS)})
    distributed.all_max(0)


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
        UserError: The state belongs to other weights, or a process cannot read what the first one reads.
    """
    about = distributed.broadcast(read_json(folder / ABOUT) if distributed.rank() == 0 else None)
    distributed.gather_results(lambda: _await(folder / TENSORS, about["sha256"]))
    saved = torch.load(folder / TENSORS, map_location="cpu", weights_only=True)
    if "shards" in about:
        shards.load(folder, learner, optimizers, about["shards"])
    else:
        _load_whole(saved, folder, learner, optimizers)
    if scaler is not None:
        scaler.load_state_dict(saved["scaler"])
    rows: dict[str, Tensor] = saved["rows"]
    return rows


def _await(path: Path, digest: str) -> None:
    if not distributed.comes(partial(shards.is_whole, path, digest)):
        raise UserError(
            f"--resume {path.parents[1]}: {path} is not the file that process 0 reads, on {distributed.me()}\n"
            "fix: give all nodes one folder on a shared file system"
        )


def _load_whole(
    saved: Mapping[str, Any], folder: Path, learner: Learner, optimizers: Sequence[torch.optim.Optimizer]
) -> None:
    missing, unexpected = learner.load_state_dict(saved["learner"], strict=False)
    absent = sorted(set(learner.trained_state()) & set(missing))
    if unexpected or absent:
        names = ", ".join(unexpected or absent)[:200]
        raise UserError(
            f"--resume {folder.parent}: the saved weights do not fit the recipe: {names}\n"
            "fix: resume with the recipe.yaml that the run was started with"
        )
    for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
        optimizer.load_state_dict(state)


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
