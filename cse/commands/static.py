"""cse static: make static vectors of an encoder, one for each token."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from cse.console import say

if TYPE_CHECKING:
    from cse.inference.static import Static

VERB = "cse.inference.static:static_checkpoint"
HELP = "make static vectors of an encoder: one for each token, a hundred times as fast, and less good"
KEPT = "nothing was written"


def show(found: Static, a: Namespace) -> None:
    """Print the size of the table, and a warning if its weights are wrong."""
    order = "unknown" if found.sorted is None else f"{found.sorted:.2f}"
    if found.doubtful:
        say("warning", f"the vocabulary is not sorted by frequency (rank correlation with counts in text: {order}), so")
        say("", "the weights of tokens are wrong")
        say("fix:", "give texts whose counts rank the tokens: --data FILE")
    say("tokens", f"{found.tokens:,}, {found.before} -> {found.dimensions} dimensions; order by frequency: {order}")
    say("wrote", str(a.out))
