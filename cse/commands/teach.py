"""cse teach: write what teachers say of rows as columns to train on."""

from __future__ import annotations

import argparse
from pathlib import Path

from cse.commands import add_hardware
from cse.commands.data import add_source, open_sources

HELP = "write what teachers say of rows: a cross-encoder's scores, an encoder's cosines or vectors"
KEPT = "complete blocks are saved, and the same command resumes after them"
EPILOG = (
    "To train on the file: cse train margin-mse --data taught.parquet --data.columns=[anchor,positive,negative_1] "
    "--data.teacher_columns=[teacher] --objective.teacher=null"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add_source(parser, 1)
    models = "cross-encoders and encoders: folders, asset:NAME or Hub ids; several give teacher_1, teacher_2, ..."
    add("--model", nargs="+", required=True, metavar="MODEL", help=models)
    out = "a .parquet or .jsonl file; its manifest, a .json file, is written beside it"
    add("--out", type=Path, required=True, help=out)
    add("--vectors", action="store_true", help="write vectors of encoders, not cosines; rows of one text get them")
    add("--prompt", metavar="NAME", help="prompt of encoders before every text; default: their default prompt")
    add("--pooler", choices=["cls", "mean", "last"], help="pooler of a plain Hugging Face model; default: mean")
    add_hardware(parser)


def run(arguments: argparse.Namespace, _: list[str]) -> int:
    """Ask the models and write the file."""
    from cse.console import quiet, say
    from cse.data.tools.writing import manifest_of
    from cse.teachers.columns import teach_rows

    a = arguments
    quiet()
    (data,) = open_sources(a)
    options = {"vectors": a.vectors, "device": a.device, "precision": a.precision}
    options |= {"prompt": a.prompt, "pooler": a.pooler}
    manifest = teach_rows(data, a.model, a.out, **options)
    say("data", f"{data.describe()}; {data.understood or 'columns as they were named'}")
    columns = manifest["settings"]["columns"]
    for name, model in zip(columns, manifest["settings"]["models"], strict=True):
        say(name, f"{model['numbers']} {model['gives']} of {model['name']}")
    say("wrote", f"{a.out}   settings and counts: {manifest_of(a.out).name}")
    return 0
