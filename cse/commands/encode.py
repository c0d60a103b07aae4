"""cse encode: encode the texts of a file as vectors."""

from __future__ import annotations

from argparse import Namespace

from cse.console import say
from cse.training import launch

VERB = "cse.inference.encode:encode"
HELP = "encode the texts of a file as vectors"
KEPT = "complete blocks are saved, and the same command resumes after them"
EPILOG = "If the command is killed, the same command resumes after the last complete block and writes the same file."
add_arguments = launch.add_argument


def show(found: tuple[int, int], a: Namespace) -> None:
    """Print what was written, and which shards are missing."""
    from cse.inference.shards import missing

    rows, size = found
    absent = missing(a.out) if a.shard or a.shards else []
    say("wrote", f"{a.out}   {rows:,} × {size} {a.quantize or 'float32'}")
    if absent:
        say("missing", f"{len(absent)} of {absent[0].of} shards: {', '.join(map(str, absent[:8]))}")
