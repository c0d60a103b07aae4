"""What the commands do: a run's folder, its beginning and its continuation."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from cse.console import quiet, say
from cse.environment import environment
from cse.errors import UserError
from cse.files import atomic_file
from cse.recipe import Recipe, build, load
from cse.training.run import Callback, Run
from cse.training.trainer import Trainer


def start(name: str, overrides: list[str], folder: Path | None) -> int:
    """Train a recipe; returns the exit code."""
    quiet()
    recipe = load(name, overrides)
    seed = recipe.config.seed
    folder = folder or Path("runs") / recipe.name / f"{datetime.now():%Y%m%d-%H%M%S}-s{seed}"
    if (folder / "state").exists():
        raise UserError(f"--run-dir {folder} already holds a run\nfix: cse train --resume {folder}, or another folder")
    return _fit(recipe, folder, is_resume=False)


def resume(folder: Path) -> int:
    """Go on with a run; returns the exit code."""
    quiet()
    path = folder / "recipe.yaml"
    if not path.is_file():
        raise UserError(
            f"--resume {folder}: is not a run (there is no {path})\nfix: give the folder that training printed as `run`"
        )
    from cse.files import recover
    from cse.training.checkpoint import load_progress

    recover(folder / "state")
    begun = (folder / "state").exists()  # killed before the first evaluation ended, a run starts over
    if begun:
        load_progress(folder / "state")  # before anything heavy
    recipe = load(str(path))
    return _fit(Recipe(_name_of(folder), recipe.config, recipe.text, recipe.expect), folder, is_resume=begun)


def _name_of(folder: Path) -> str:
    """The recipe's name, which the resolved recipe does not say."""
    try:
        return str(json.loads((folder / "env.json").read_text())["recipe"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"--resume {folder}: its env.json is missing or damaged\nfix: start the run again") from error


def _fit(recipe: Recipe, folder: Path, *, is_resume: bool) -> int:
    from cse.data.checks import DataCheck
    from cse.training.callbacks import Console

    built = build(recipe)
    run = Run(
        name=recipe.name,
        folder=folder,
        seed=recipe.config.seed,
        data=built.data,
        collator=built.collator,
        encoder=built.encoder,
        objective=built.objective,
        evaluator=built.evaluator,
        sampler=built.sampler,
        negatives=built.negatives,
        settings=built.trainer,
        callbacks=[RunFiles(recipe, folder), Console(), DataCheck(), *built.callbacks],
    )
    Trainer(run).fit(resume=is_resume)
    return 130 if run.interrupted else 0


class RunFiles(Callback):
    """Leaves the resolved recipe and the environment beside the weights, and keeps other processes out."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe = recipe
        self.lock = FileLock(folder / ".lock")

    def on_start(self, run: Run) -> None:
        """Claim the folder; write both, once.

        Raises:
            UserError: Another process is training in it.
        """
        run.folder.mkdir(parents=True, exist_ok=True)
        try:
            self.lock.acquire(timeout=0)
        except Timeout:
            raise UserError(
                f"run {run.folder} is being trained by another process\n"
                "fix: wait for it, stop it, or give another folder"
            ) from None
        if self.recipe.own is not None:
            say("recipe", str(self.recipe.own))
        if run.progress.step == 0:
            _write(
                run.folder / "env.json",
                json.dumps(environment(self.recipe.name, self.recipe.config.seed), indent=2) + "\n",
            )
            _write(run.folder / "recipe.yaml", self.recipe.text)  # last: with it the folder is a run

    def on_end(self, run: Run) -> None:
        """Let the folder go."""
        self.lock.release()


def _write(path: Path, text: str) -> None:
    with atomic_file(path) as scratch:
        scratch.write_text(text, encoding="utf-8")
