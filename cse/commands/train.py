"""cse train: train a recipe, or go on with a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from cse.errors import UserError

HELP = "train a recipe, or go on with a run"
EPILOG = "Options of a recipe are given as --objective.temperature=0.1 --trainer.max_steps=50"
TAKES_OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = EPILOG
    parser.add_argument("recipe", nargs="?", help="name in recipes/, or a YAML file")
    parser.add_argument("--run-dir", type=Path, help="the run's folder; default runs/<recipe>/<stamp>-s<seed>")
    parser.add_argument("--resume", type=Path, metavar="RUN", help="go on with this run's folder")


def run(arguments: argparse.Namespace, overrides: list[str]) -> int:
    """Train; 0 if the run ended well."""
    from cse.training.start import resume, start

    if (arguments.recipe is None) == (arguments.resume is None):
        raise UserError("cse train needs either a recipe or --resume RUN")
    if arguments.resume is not None:
        if overrides:
            raise UserError(f"--resume goes on with the run's own recipe; remove {' '.join(overrides)}")
        return resume(arguments.resume)
    return start(arguments.recipe, overrides, arguments.run_dir)
