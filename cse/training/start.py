"""Begin a run from a recipe, or resume one: what `cse train` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from cse.data.loader import FixedRows
from cse.errors import UserError
from cse.files import read_json, recover
from cse.recipe import Recipe, build, load
from cse.training.callbacks import Console, DataCheck, RunFiles
from cse.training.checkpoint import load_progress
from cse.training.run import Run
from cse.training.trainer import Trainer


def train(recipe: str, overrides: Sequence[str] = (), run_dir: Path | None = None) -> Run:
    """Train a recipe.

    Args:
        recipe: The recipe's name, or a path that ends in .yaml.
        overrides: Options of the recipe, such as `--trainer.max_steps=50`.
        run_dir: The folder to write. None: `runs/RECIPE/TIME-sSEED`.

    Returns:
        The run; best/ and last/ in its folder are checkpoints. `interrupted` says whether Ctrl-C stopped it.

    Raises:
        UserError: The recipe cannot be trained, or the folder holds a run already.
        FloatingPointError: The loss is not finite.
    """
    loaded = load(recipe, overrides)
    seed = loaded.config.seed
    folder = run_dir or Path("runs") / loaded.name / f"{datetime.now():%Y%m%d-%H%M%S}-s{seed}"
    if (folder / "state").exists():
        raise UserError(f"--run-dir {folder} holds a run already\nfix: cse train --resume {folder}, or another folder")
    return _fit(loaded, folder, is_resume=False)


def resume(run_dir: Path) -> Run:
    """Resume a run that was interrupted or killed; see `train`.

    Args:
        run_dir: The folder of the run.

    Returns:
        The run, which ends as if nothing had interrupted it.

    Raises:
        UserError: The folder does not hold a run, or its state is damaged.
        FloatingPointError: The loss is not finite.
    """
    path = run_dir / "recipe.yaml"
    if not path.is_file():
        raise UserError(
            f"--resume {run_dir}: is not a run, since {path} does not exist\n"
            "fix: give the folder that training printed as `run`"
        )
    recover(run_dir / "state")
    begun = (run_dir / "state").exists()  # a run that was killed before its first evaluation ended starts again
    if begun:
        load_progress(run_dir / "state")  # a damaged state is refused before the data and the model are loaded
    try:
        name = str(read_json(run_dir / "env.json")["recipe"])  # recipe.yaml does not hold the name
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"--resume {run_dir}: its env.json is missing or damaged\nfix: start the run again") from error
    return _fit(replace(load(str(path)), name=name, own=None), run_dir, is_resume=begun)


def _fit(recipe: Recipe, folder: Path, *, is_resume: bool) -> Run:
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
        source=built.negatives or FixedRows(),
        settings=built.trainer,
        callbacks=[RunFiles(recipe, folder), Console(), DataCheck(), *built.callbacks],
    )
    return Trainer(run).fit(resume=is_resume)
