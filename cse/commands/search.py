"""cse search: train several recipes on a text under one budget, tune each, and say which one to take."""

from __future__ import annotations

import argparse
from pathlib import Path

from cse.errors import UserError

HELP = "find the method for a text: train recipes under one budget, tune each, compare"
EPILOG = "Options for all recipes are given as --trainer.batch_size=32 --data.column=sentence"
TAKES_OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    names = "recipes, by name or path (default: those whose data class fits the columns of the data)"
    parser.add_argument("recipes", nargs="*", metavar="recipe", help=names)
    parser.add_argument("--data", help="the training data: a file, asset:NAME or a Hub id")
    parser.add_argument("--encoder", metavar="MODEL", help="the model to train (default: that of each recipe)")
    dev = "STS tasks, or rows of your own, that select settings and checkpoints (default: %(default)s)"
    parser.add_argument("--dev", default="sts-mini-dev", help=dev)
    parser.add_argument("--dev-data", metavar="DIR", help="folder with the rows of --dev and --test, as of cse eval")
    parser.add_argument("--test", default="", metavar="TASKS", help="STS tasks that only score the final checkpoints")
    budget = "what all training may cost: 90s, 30m, 2h, or 2000steps (default: %(default)s)"
    parser.add_argument("--budget", default="30m", help=budget)
    parser.add_argument("--trials", type=int, default=6, help="settings tried per recipe (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="final runs of each recipe (default: %(default)s)")
    parser.add_argument("--run-dir", type=Path, help="folder to write; default runs/search/TIME")
    parser.add_argument("--resume", type=Path, metavar="SEARCH", help="continue the search in this folder")


def run(arguments: argparse.Namespace, overrides: list[str]) -> int:
    """Search; returns 0, or 130 if Ctrl-C stopped it."""
    from cse.console import quiet
    from cse.search import resume, search

    a = arguments
    if a.resume is not None and (a.recipes or a.data or a.encoder or overrides):
        raise UserError("--resume continues a search as it was begun, and takes no options\nfix: remove them")
    if a.resume is None and a.data is None:
        raise UserError("cse search needs data or --resume SEARCH\nfix: cse search --data my.txt --dev STSB-dev")
    quiet()
    if a.resume is not None:
        return 130 if resume(a.resume).interrupted else 0
    done = search(
        a.recipes,
        data=a.data,
        encoder=a.encoder,
        dev=a.dev,
        dev_data=a.dev_data,
        test=a.test,
        budget=a.budget,
        trials=a.trials,
        seeds=a.seeds,
        overrides=overrides,
        folder=a.run_dir,
    )
    return 130 if done.interrupted else 0
