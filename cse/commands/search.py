"""cse search: train several recipes on a text under one budget, tune each, and say which one to take."""

from __future__ import annotations

import argparse
from pathlib import Path

from cse.commands import call, declare
from cse.errors import UserError

VERB = "cse.search.engine:search"
HELP = "find the method for a text: train recipes under one budget, tune each, compare"
EPILOG = "Options for all recipes are given as --trainer.batch_size=32 --data.column=sentence"
TAKES_OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipes", nargs="*", metavar="recipe", help="recipes, by name or path; default: all that fit")
    parser.add_argument("--data", help="the training data: a file, asset:NAME or a Hub id")
    declare(parser, VERB, {"folder": "--run-dir"}, omit={"names", "data", "overrides"})
    parser.add_argument("--resume", type=Path, metavar="SEARCH", help="continue the search in this folder")


def run(arguments: argparse.Namespace, overrides: list[str]) -> int:
    """Search; returns 0, or 130 if Ctrl-C stopped it."""
    from cse.console import quiet
    from cse.search import resume

    a = arguments
    if a.resume is not None and (a.recipes or a.data or a.encoder or overrides):
        raise UserError("--resume continues a search as it was begun, and takes no options\nfix: remove them")
    if a.resume is None and a.data is None:
        raise UserError("cse search needs data or --resume SEARCH\nfix: cse search --data my.txt --dev STSB-dev")
    quiet()
    if a.resume is not None:
        return 130 if resume(a.resume).interrupted else 0
    done = call(VERB, a, a.recipes, overrides=overrides)
    return 130 if done.interrupted else 0
