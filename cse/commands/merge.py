"""cse merge: average the weights of checkpoints that began as one model."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from cse.console import say

if TYPE_CHECKING:
    from cse.evaluation.results import Scored

VERB = "cse.training.merge:merge"
HELP = "average the weights of checkpoints that began as one model, and score the mean beside them"
EPILOG = "A mean of the encoder before and after training often keeps both gains: cse merge MODEL RUN/best --out MEAN"
KEPT = "nothing was written"


def show(found: dict[str, Scored], a: Namespace) -> None:
    """Print the score of each checkpoint."""
    for name, scored in found.items():
        say("scored", f"{name}   {a.tasks} {scored.results['average']['value']:.2f}")
    say("wrote", str(a.out))
