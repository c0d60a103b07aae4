"""cse adapt: make a sentence encoder better on your text."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cse.adapting.adapt import Adapted

VERB = "cse.adapting.adapt:adapt"
HELP = "make a sentence encoder better on your text, no worse elsewhere, with proof"
EPILOG = "Data are pairs (two columns), texts with labels, or texts. After a kill, the same command resumes."
KEPT = "what is done is kept; the same command resumes"


def show(found: Adapted, a: Namespace) -> None:
    """Print what to do next; all else is said on the way."""
    from cse.console import say

    if found.model is not None:
        say("next", f"cse push {found.model} you/name")
