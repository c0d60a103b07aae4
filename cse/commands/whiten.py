"""cse whiten: append PCA whitening, or another linear map that is fitted on sentences, to a checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path

from cse.commands import add_device

HELP = "append PCA whitening, or another map that is fitted on sentences, to a checkpoint"
EPILOG = "Meant for models that were not trained for similarity; score both: cse eval compare CHECKPOINT OUT"
KEPT = "nothing was written"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    parser.epilog = EPILOG
    add("checkpoint", help="a folder, asset:NAME or Hub id")
    add("--data", required=True, help="sentences to fit on: a file, asset:NAME or Hub id")
    add("--columns", nargs="+", default=["text"], help="columns of a table; default: text")
    add("--limit", type=int, help="number of rows to fit on; default: all")
    methods = "clip sets outlier dimensions to 0, all-but-the-top removes the first components (default: %(default)s)"
    add("--method", choices=["whiten", "clip", "all-but-the-top"], default="whiten", help=methods)
    add("--k", type=int, help="number of dimensions to keep; default: 256 (arXiv:2103.15316), or as many as vary")
    add("--components", type=int, help="components that all-but-the-top removes; 0: the mean alone; default: 1 of 100")
    add("--out", type=Path, required=True, help="folder of the new checkpoint")
    add_device(parser)
    add("--pooler", choices=["cls", "mean", "last"], help="pooler of a plain Hugging Face model; default: mean")


def run(arguments: argparse.Namespace, _: list[str]) -> int:
    """Fit the whitening and write the new checkpoint."""
    from cse.console import quiet, say
    from cse.inference.whiten import whiten_checkpoint

    quiet()
    a = arguments
    count, before, after = whiten_checkpoint(
        a.checkpoint,
        a.data,
        a.columns,
        a.k,
        a.out,
        method=a.method,
        components=a.components,
        limit=a.limit,
        pooler=a.pooler,
        device=a.device,
    )
    done = "whitened" if a.method == "whiten" else a.method
    say("wrote", f"{a.out}   {done} on {count:,} sentences, {before} -> {after} dimensions")
    return 0
