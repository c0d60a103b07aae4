"""cse train: train a recipe, or resume a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from cse.errors import UserError

HELP = "train a recipe, or resume a run"
EPILOG = (
    "Options of a recipe are given as --objective.temperature=0.1 --trainer.max_steps=50. A recipe is code: a file may "
    "name classes of this package, and of other modules with --trusted-modules=MODULE,MODULE."
)
TAKES_OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = EPILOG
    parser.add_argument("recipe", nargs="?", help="a recipe's name, or the path of a YAML file")
    parser.add_argument("--run-dir", type=Path, help="folder to write; default runs/RECIPE/TIME-sSEED")
    parser.add_argument("--resume", type=Path, metavar="RUN", help="resume the run in this folder")


def run(arguments: argparse.Namespace, overrides: list[str]) -> int:
    """Train; returns 0, or 130 if Ctrl-C stopped the run."""
    from cse.api.training import resume, train
    from cse.training.recipe_file import trusted_modules

    if (arguments.recipe is None) == (arguments.resume is None):
        raise UserError(
            "cse train needs either a recipe or --resume RUN\nfix: cse train simcse-unsup; `cse recipe list` shows all"
        )
    if arguments.resume is not None:
        others, trusted = trusted_modules(overrides)
        if others:
            raise UserError(f"--resume uses the recipe of the run and takes no options\nfix: remove {' '.join(others)}")
        done = resume(arguments.resume, trusted_modules=trusted)
    else:
        done = train(arguments.recipe, overrides=overrides, run_dir=arguments.run_dir)
    return 0 if done.finished else 130
