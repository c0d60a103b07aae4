"""Send a run's settings, curves and final table to trackers besides its folder: tensorboard, trackio, wandb."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from cse.training.run import Run
from cse.training.sources import sources

PROJECT = "cse"


def start(accelerator: Accelerator, folder: Path, name: str, settings: dict[str, Any]) -> None:
    """Open the trackers that the accelerator was made with, and log the settings. Called again, a run is continued.

    Files of the trackers lie in trackers/ in the run's folder; `name` is that of the run among those of the project.
    """
    files = folder / "trackers"
    files.mkdir(parents=True, exist_ok=True)
    # The same folder is the same run: after a resume, its curves continue where they ended.
    identity = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    options = {
        "wandb": {"name": name, "id": identity, "resume": "allow", "dir": str(files)},
        "trackio": {"name": f"{name}-{identity[:6]}", "resume": "allow"},
    }
    plain = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in settings.items()}
    accelerator.init_trackers(PROJECT, config=plain, init_kwargs=options)


def settings_of(run: Run) -> dict[str, Any]:
    """The settings of a run as a tracker shows them: what its header says, and every setting of the trainer."""
    about = {"recipe": run.name, "seed": run.seed, "hardware": run.hardware, "max_steps": run.max_steps}
    parts = {
        "data": run.data.describe(),
        "collator": type(run.collator).__name__,
        "collator.max_length": run.collator.max_length,
        "encoder": run.encoder.describe(),
        "objective": run.objective.describe(),
        "negatives": run.source.describe(),
    }
    mixed = [(name, source) for name, source in sources(run).items() if name]
    parts |= {f"source.{n}": f"{s.data.describe()}, {s.share:.1%}, {s.objective.describe()}" for n, s in mixed}
    trainer = {f"trainer.{name}": value for name, value in vars(run.settings).items()}
    return {**about, **{name: part for name, part in parts.items() if part}, **trainer}


def log_result(accelerator: Accelerator, run: Run) -> None:
    """Log the final table of a run: its dev score before training and at its best."""
    progress = run.progress
    if progress.first is None or progress.best is None or progress.best_step is None:
        return
    rows = [["before training", 0, progress.first], ["best", progress.best_step, progress.best]]
    log_table(accelerator, "result", ["", "step", "dev"], rows, step=progress.step)


def log_table(
    accelerator: Accelerator, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int = 0
) -> None:
    """Log a table: as one where the tracker has tables (wandb), and as Markdown elsewhere."""
    lines = [columns, ["--"] * len(columns), *[[f"{c:.2f}" if isinstance(c, float) else c for c in r] for r in rows]]
    markdown = "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
    for tracker in accelerator.trackers:
        if hasattr(tracker, "log_table"):
            tracker.log_table(title, columns=list(columns), data=[list(row) for row in rows], step=step)
        else:
            tracker.log({title: markdown}, step=step)
