"""cse bench-model: one table of a checkpoint and cheaper variants of it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from cse.commands.eval import add_kind, add_scoring, wanted

HELP = "compare a checkpoint with smaller and faster variants of it: quality, megabytes, sentences per second"
KEPT = "the table of an earlier run is as it was"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("checkpoint", help="folder or Hub id of a checkpoint of cse or sentence-transformers, or of a plain model")
    variants = "some of widths, int8, binary, onnx, onnx-int8, layers, static, separated by commas (default: all)"
    add("--variants", metavar="NAME,...", help=variants)
    add("--widths", metavar="N,N,...", help="numbers of first dimensions (default: a half, a quarter, an eighth)")
    add("--layers", metavar="N,N,...", help="numbers of first layers (default: a half and a quarter)")
    texts = "texts that are timed, that give 8-bit vectors their ranges, and that rank the tokens of static vectors"
    add("--texts", help=f"{texts} (default: asset:triplets-mini, which ranks no tokens)")
    seconds = "least time that each model encodes, in three rounds (default: %(default)s)"
    add("--seconds", type=float, default=6.0, help=seconds)
    add("--prompt", metavar="NAME", help="a prompt of the checkpoint (default: its default prompt)")
    add("--out", type=Path, help="the JSON file to write (default: bench-model.json in the run of the checkpoint)")
    add_scoring(parser, "sts-mini, and what --data holds")
    add_kind(parser)


def run(arguments: argparse.Namespace, _: list[str]) -> int:
    """Measure the variants and print the table."""
    from cse.console import quiet, say
    from cse.encoder import widths
    from cse.evaluation import benchmark
    from cse.evaluation.benchmark import VARIANTS, bench_model

    quiet()
    a = arguments
    tasks, options = wanted(a)
    options |= {"texts": a.texts, "seconds": a.seconds, "prompt": a.prompt, "out": a.out}
    options |= {
        "widths": None if a.widths is None else widths.parse(a.widths, "--widths"),
        "layers": None if a.layers is None else widths.parse(a.layers, "--layers"),
        "variants": VARIANTS if a.variants is None else a.variants.split(","),
    }
    found = bench_model(a.checkpoint, _with_shipped(a, tasks), **options)
    benchmark.show(found.as_dict())
    if out := a.out or benchmark.file_of(a.checkpoint):
        say("wrote", str(out))
    return 0


def _with_shipped(a: argparse.Namespace, tasks: Any) -> Any:
    """What is scored: what --tasks names; without it the shipped pairs, and what --data holds."""
    if a.tasks:
        return tasks
    if a.data is None:
        return "sts-mini"
    return "sts-mini,sts" if tasks is None else ["sts-mini", tasks]
