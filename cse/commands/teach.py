"""cse teach: write what teachers say of rows as columns to train on."""

from __future__ import annotations

import argparse

from cse.commands import call, declare
from cse.commands.data import add_source, open_sources

VERB = "cse.teachers.columns:teach"
HELP = "write what teachers say of rows: a cross-encoder's scores, an encoder's cosines or vectors"
KEPT = "complete blocks are saved, and the same command resumes after them"
EPILOG = (
    "To train on the file: cse train margin-mse --data taught.parquet --data.columns=[anchor,positive,negative_1] "
    "--data.teacher_columns=[teacher] --objective.teacher=null"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_source(parser, 1)
    declare(parser, VERB, {"models": "--model"}, omit={"rows", "columns", "limit"})


def run(arguments: argparse.Namespace, _: list[str]) -> int:
    from cse.console import quiet, say
    from cse.data.tools.writing import manifest_of

    quiet()
    (data,) = open_sources(arguments)
    settings = call(f"{VERB}_rows", arguments, data=data)["settings"]
    say("data", f"{data.describe()}; {data.understood or 'columns as they were named'}")
    for name, model in zip(settings["columns"], settings["models"], strict=True):
        say(name, f"{model['numbers']} {model['gives']} of {model['name']}")
    say("wrote", f"{arguments.out}   settings and counts: {manifest_of(arguments.out).name}")
    return 0
