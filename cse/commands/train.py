"""cse train: train a recipe, or resume a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from cse.errors import UserError
from cse.training import launch

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
    parser.add_argument(
        "--resume",
        metavar="RUN",
        help="resume the run in this folder; `auto`, with a recipe and --run-dir: if it holds one, else begin it",
    )
    launch.add_argument(parser)


def run(arguments: argparse.Namespace, overrides: list[str]) -> int:
    """Train; returns 0, or 128 and the number of the signal that stopped the run: 130 for Ctrl-C, 143 for SIGTERM."""
    from cse.api.training import resume, train
    from cse.training.recipe_file import trusted_modules

    auto = arguments.resume == "auto"
    if auto and (arguments.recipe is None or arguments.run_dir is None):
        raise UserError("--resume auto needs a recipe and --run-dir\nfix: cse train RECIPE --run-dir RUN --resume auto")
    if (arguments.recipe is None) == (arguments.resume is None) and not auto:
        raise UserError(
            "cse train needs either a recipe or --resume RUN\nfix: cse train simcse-unsup; `cse recipe list` shows all"
        )
    if arguments.resume is not None and not auto:
        others, trusted = trusted_modules(overrides)
        if others:
            raise UserError(f"--resume uses the recipe of the run and takes no options\nfix: remove {' '.join(others)}")
        done = resume(Path(arguments.resume), trusted_modules=trusted)
    else:
        done = train(arguments.recipe, overrides=overrides, run_dir=arguments.run_dir, resumes=auto)
    return 0 if done.finished else 128 + done.stopped_by
