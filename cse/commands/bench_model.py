"""cse bench-model: one table of a checkpoint and cheaper variants of it."""

from __future__ import annotations

import argparse
from typing import Any

from cse.commands import call, declare
from cse.commands.eval import SCORING, add_kind, add_scoring, wanted

VERB = "cse.evaluation.benchmark:bench_model"
HELP = "compare a checkpoint with smaller and faster variants of it: quality, megabytes, sentences per second"
KEPT = "the table of an earlier run is as it was"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    declare(parser, VERB, omit=SCORING, commas={"variants", "widths", "layers"})
    add_scoring(parser, "sts-mini, and what --data holds")
    add_kind(parser)


def run(arguments: argparse.Namespace, _: list[str]) -> int:
    from cse.console import quiet, say
    from cse.evaluation import benchmark

    quiet()
    a = arguments
    tasks, options = wanted(a)
    found = call(VERB, a, tasks=_with_shipped(a, tasks), **options)
    benchmark.show(found.as_dict())
    if out := a.out or benchmark.file_of(a.model):
        say("wrote", str(out))
    return 0


def _with_shipped(a: argparse.Namespace, tasks: Any) -> Any:
    """Choose the tasks: those that --tasks names; without it the shipped pairs, and what --data holds."""
    if a.tasks:
        return tasks
    if a.data is None:
        return "sts-mini"
    return "sts-mini,sts" if tasks is None else ["sts-mini", tasks]
