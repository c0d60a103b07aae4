"""cse whiten: append PCA whitening, or another linear map that is fitted on sentences, to a checkpoint."""

from __future__ import annotations

from argparse import Namespace

from cse.console import say

VERB = "cse.inference.whiten:whiten_checkpoint"
HELP = "append PCA whitening, or another map that is fitted on sentences, to a checkpoint"
EPILOG = "Meant for models that were not trained for similarity; score both: cse eval compare CHECKPOINT OUT"
KEPT = "nothing was written"


def show(found: tuple[int, int, int], a: Namespace) -> None:
    """Print what was fitted."""
    count, before, after = found
    done = "whitened" if a.method == "whiten" else a.method
    say("wrote", f"{a.out}   {done} on {count:,} sentences, {before} -> {after} dimensions")
