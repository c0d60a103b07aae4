"""cse static: make static vectors of an encoder, one for each token."""

from __future__ import annotations

import argparse
from pathlib import Path

from cse.commands import add_device

HELP = "make static vectors of an encoder: one for each token, a hundred times as fast, and less good"
KEPT = "nothing was written"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("checkpoint", help="a folder, asset:NAME or Hub id")
    add("--out", type=Path, required=True, help="folder of the new model, which sentence-transformers and cse load")
    add("--dimensions", type=int, metavar="N", help="principal components to keep; default: 256, or all of fewer")
    weights = "weight of a token: A / (A + its probability); a large number weighs all alike (default: %(default)s)"
    add("--sif", type=float, metavar="A", default=1e-4, help=weights)
    ranks = "texts whose counts rank the tokens: a file, asset:NAME or Hub id; default: the order of the vocabulary"
    add("--data", help=ranks)
    add("--columns", nargs="+", default=["text"], help="columns of a table; default: text")
    add("--limit", type=int, help="number of rows to read; default: all")
    add_device(parser)
    add("--pooler", choices=["cls", "mean", "last"], help="pooler of a plain Hugging Face model; default: mean")


def run(arguments: argparse.Namespace, _: list[str]) -> int:
    """Encode every token and write the new model."""
    from cse.console import quiet, say
    from cse.inference.static import SORTED, static_checkpoint

    quiet()
    a = arguments
    found = static_checkpoint(
        a.checkpoint,
        a.out,
        dimensions=a.dimensions,
        sif=a.sif,
        data=a.data,
        columns=a.columns,
        limit=a.limit,
        pooler=a.pooler,
        device=a.device,
    )
    order = "unknown" if found.sorted is None else f"{found.sorted:.2f}"
    if not found.counted and (found.sorted is None or found.sorted < SORTED):
        say("warning", f"the vocabulary is not sorted by frequency (rank correlation with counts in text: {order}), so")
        say("", "the weights of tokens are wrong")
        say("fix:", "give texts whose counts rank the tokens: --data FILE")
    say("tokens", f"{found.tokens:,}, {found.before} -> {found.dimensions} dimensions; order by frequency: {order}")
    say("wrote", str(a.out))
    return 0
