"""The files of a run: state/, from which it resumes, metrics.jsonl, and its checkpoints.

It resumes bit for bit on a CPU, and on a GPU with `trainer.deterministic`. Checkpoints are sentence encoders, or plain
backbones if nothing in the run trains sentence vectors.
"""

from __future__ import annotations

import json
import math
import os
import pickle
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cse import distributed
from cse.encoder.adapters.soft_prompts import SoftPrompts
from cse.encoder.kinds import SavedAs
from cse.encoder.language_models import save_backbone
from cse.errors import UserError
from cse.files import atomic_dir, misfit, read_sealed, recover, sha256_file, write_sealed
from cse.objectives.masked_lm import MaskedLM, MaskedLMHead
from cse.training import fsdp
from cse.training.learner import Learner
from cse.training.run import Progress, Run
from cse.training.sources import similarities, sources

TENSORS, ABOUT = "state.pt", "state.json"
SHAPE = {  # of state.json, for `misfit`
    "progress": {
        **{"step?": int, "seconds?": float, "log_bytes?": int, "finished?": bool, "*": ()},
        **{"best?": (float, None), "first?": (float, None), "best_step?": (int, None), "eval_every?": (int, None)},
    },
    "made_from": {"recipe?": str, "rows?": {"*": {"rows": int, "sha256": str}}, "start?": str},
    "sha256": str,
}


class States:
    """The saved state of a run: a folder, which is replaced as a whole while training continues.

    One state is written at a time, so that the disk never has more than two, and what the folder holds is complete at
    every moment. A context: what is being written is complete when it ends.

    Args:
        folder: The folder.
        made_from: Recipe, rows and start model of the run, as JSON; a run on others does not resume from here.
    """

    def __init__(self, folder: Path, made_from: Mapping[str, Any]) -> None:
        self.folder, self.made_from = folder, made_from
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._writing: Future[None] | None = None

    def __enter__(self) -> States:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._thread.shutdown()
        if kind is None:
            self.wait()

    def wait(self) -> None:
        """Wait until the last state is written."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def save(
        self,
        learner: Learner,
        optimizers: Sequence[torch.optim.Optimizer],
        progress: Progress,
        rows: Mapping[str, Tensor],
        scaler: torch.amp.GradScaler | None = None,
        *,
        sharded: bool = False,
    ) -> None:
        """Copy the state, and let a thread of the first process write it. All processes call this together.

        `rows` is the state of the row source, and the scaler that of the loss in fp16. If the run is `sharded`, every
        process writes its shares of weights and optimizers, and they all wait for it.
        """
        self.wait()
        content: dict[str, Any] = {"rows": dict(rows), "scaler": {} if scaler is None else scaler.state_dict()}
        about: dict[str, Any] = {"progress": asdict(progress), "made_from": dict(self.made_from)}
        first = distributed.rank() == 0
        if sharded:
            with atomic_dir(self.folder) if first else nullcontext() as made:
                about["shards"] = fsdp.save(distributed.broadcast(made), learner, optimizers)
                if made is not None:
                    _write(made, content, about)
            distributed.all_max(0)  # no process reads or continues before the folder is there
        elif first:
            states = [optimizer.state_dict() for optimizer in optimizers]
            content = _copied(content | {"learner": learner.trained_state(), "optimizers": states})
            # The next step changes the weights, but on a GPU only after the copies, which come before it in its stream.
            copied = None
            if next(learner.parameters()).is_cuda:
                copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
                copied.record()
            self._writing = self._thread.submit(self._replace, content, about, copied)

    def _replace(self, content: Mapping[str, Any], about: dict[str, Any], copied: torch.cuda.Event | None) -> None:
        if copied is not None:
            copied.synchronize()
        with atomic_dir(self.folder) as made:
            _write(made, content, about)


def _write(folder: Path, content: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    torch.save(content, folder / TENSORS)
    write_sealed(folder / ABOUT, {**about, "sha256": sha256_file(folder / TENSORS)})


def _copied(value: Any) -> Any:
    """Nested mappings and lists with copies of their tensors in memory that is pinned if they come from a GPU."""
    if isinstance(value, Tensor):
        if not value.is_cuda:
            return value.detach().to("cpu", copy=True)
        return torch.empty_like(value, device="cpu", pin_memory=True).copy_(value.detach(), non_blocking=True)
    if isinstance(value, Mapping):
        return {key: _copied(one) for key, one in value.items()}
    return [_copied(one) for one in value] if isinstance(value, list) else value


def load_progress(folder: Path, made_from: Mapping[str, Any] | None = None) -> Progress:
    """The progress of the run, after a check that its saved state is undamaged.

    `made_from` has those of recipe, rows and start model that are to be the same as when the state was saved.

    Raises:
        UserError: There is no state, it is damaged, or it is that of another recipe or other rows.
    """
    recover(folder)
    about_path, run = folder / ABOUT, folder.parent
    if not about_path.exists():
        raise UserError(
            f"--resume {run}: {about_path} does not exist, so there is no saved state to resume from\n"
            "fix: start the run again"
        )
    damaged = about_path
    try:
        about = read_sealed(about_path)
        why = misfit(about, SHAPE)
        if not why:
            damaged = folder / TENSORS
            why = "" if sha256_file(damaged) == about["sha256"] else "its sha256 is not the recorded one"
    except (OSError, ValueError) as error:
        why = str(error)
    if why:
        raise UserError(
            f"--resume {run}: {damaged} is damaged ({why})\nfix: start the run again, or publish its best/ as it is"
        )
    for name, now in (made_from or {}).items():
        _require_same(run, name, about["made_from"].get(name) or type(now)(), now)
    return Progress(**about["progress"])


def _require_same(run: Path, name: str, before: Any, now: Any) -> None:
    """Raise if the recipe, the rows of a source, or the weights that stand still changed."""
    if name == "start":
        what = before != now and "the model that the run began with has other weights now"
    elif name == "recipe":
        found = changed_lines(before, now)
        lines = [f"`{line}`" if line else "no such line" for line in found or ()]
        what = found and f"{run / 'recipe.yaml'} has {lines[1]}, and the run was started with {lines[0]}"
    else:
        other = next((name for name, facts in now.items() if before.get(name) != facts), None)
        old = before.get(other) or {"rows": 0, "sha256": "none"}
        what = other and (
            f"the rows of {other} changed: there are {now[other]['rows']:,} (sha256 {now[other]['sha256'][:12]}), and "
            f"the run was started on {old['rows']:,} (sha256 {old['sha256'][:12]})"
        )
    if what:
        raise UserError(
            f"--resume {run}: {what}\n"
            f"fix: put back what changed, or start another run: cse train {run / 'recipe.yaml'} --run-dir OTHER"
        )


def changed_lines(before: str, now: str) -> tuple[str, str] | None:
    """The first line that differs between two texts, in both of them; None if all are equal."""
    lines = zip_longest(before.splitlines(), now.splitlines(), fillvalue="")
    return next(((old.strip(), new.strip()) for old, new in lines if old != new), None)


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
    about = distributed.broadcast(read_sealed(folder / ABOUT) if distributed.rank() == 0 else None)
    distributed.gather_results(lambda: _await(folder / TENSORS, about["sha256"]))
    try:
        saved = torch.load(folder / TENSORS, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise UserError(
            f"--resume {folder.parent}: {folder / TENSORS} holds more than tensors, or is cut; nothing of it was run\n"
            "fix: start the run again, or publish its best/ as it is"
        ) from error
    if "shards" in about:
        fsdp.load(folder, learner, optimizers, about["shards"])
    else:
        missing, unexpected = learner.load_state_dict(saved["learner"], strict=False)
        absent = sorted(set(learner.trained_state()) & set(missing))
        if unexpected or absent:
            raise UserError(fsdp.misfit(folder, unexpected or absent))
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
    if scaler is not None:
        scaler.load_state_dict(saved["scaler"])
    return saved["rows"]


def _await(path: Path, digest: str) -> None:
    if not distributed.comes(partial(fsdp.is_whole, path, digest)):
        raise UserError(
            f"--resume {path.parents[1]}: {path} is not the file that process 0 reads, on {distributed.me()}\n"
            "fix: give all nodes one folder on a shared file system"
        )


class MetricsLog:
    """metrics.jsonl: one line for each evaluation. It is only appended to, or cut to the length in the saved state."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def cut(self, size: int) -> None:
        """Drop everything after the first `size` bytes."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        length = self.path.stat().st_size if self.path.exists() else 0
        if length < size:
            raise UserError(
                f"--resume {self.path.parent}: {self.path} has {length:,} bytes, and {size:,} were written before\n"
                "fix: put the file back, or start the run again"
            )
        with self.path.open("ab") as file:
            file.truncate(size)

    def append(self, record: Mapping[str, float]) -> int:
        """Add a line; returns the file's length in bytes. Numbers that JSON has not are left out.

        Such as the norm of a step that the scaler of fp16 skips, which is infinite.
        """
        numbers = {name: value for name, value in record.items() if math.isfinite(value)}
        with self.path.open("ab") as file:
            file.write((json.dumps(numbers, allow_nan=False) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())  # the state that counts these bytes is written next
            return file.tell()


def saves_backbone(run: Run) -> bool:
    """Tell whether checkpoints of the run are plain backbones. Soft prompts are none, whatever they are trained for."""
    return not similarities(run) and not isinstance(run.encoder.adapter, SoftPrompts)


def trained_head(run: Run) -> nn.Module | None:
    """The masked-LM head that the run trains and saves with its backbone, the first if there are several, or None.

    One with an output matrix of its own is not the backbone's, whose output matrix is that of its input embeddings.
    """
    if not saves_backbone(run):
        return None
    modules = [module for source in sources(run).values() for module in source.objective.modules()]
    apart = {id(m.head) for m in modules if isinstance(m, MaskedLM) and m.output == "own"}
    heads = [m for m in modules if isinstance(m, MaskedLMHead) and m.bias is not None and id(m) not in apart]
    return heads[0] if heads else None


def save(run: Run, name: str, *, whole: bool | None = None, precision: SavedAs = "fp32") -> None:
    """Write a checkpoint to a folder of the run; see `Encoder.save`. A plain backbone is whole in any case."""
    if saves_backbone(run):
        head = {} if run.head is None else run.head.state_dict()
        save_backbone(run.encoder, run.folder / name, head, precision=precision)
    else:
        run.encoder.save(run.folder / name, whole=whole, precision=precision)
