"""cse push: publish a checkpoint to the Hugging Face Hub."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from cse.console import say

if TYPE_CHECKING:
    from cse.publish.hub import Upload

VERB = "cse.publish.hub:push"
NAMES = {"create_pr": "--pr"}
HELP = "publish a checkpoint to the Hugging Face Hub"
KEPT = "a push that was under way is complete or absent on the Hub"
EPILOG = "The token is that of huggingface_hub: HF_TOKEN, or the one of `hf auth login`. HF_ENDPOINT names another Hub."


def show(upload: Upload, a: Namespace) -> None:
    """Print what was sent, or would be."""
    from cse.publish.hub import shown_size

    for path, size in upload.files.items():
        say("would send" if a.dry_run else "file", f"{path}   {shown_size(size)}")
    for path in upload.left_out:
        say("left out", path)
    missing = f"none were found, and the card says so; run `cse eval {a.checkpoint}`, or give --results"
    say("scores", str(upload.results or missing))
    for line in upload.verified:
        say("verified", line)
    for path in upload.removed:
        say("removed", f"{path}   (a file of the earlier model)")
    say("message", upload.message)
    if a.dry_run:
        total = shown_size(sum(upload.files.values()))
        say("dry run", f"{len(upload.files)} files, {total}; the Hub was not contacted")
    else:
        unchanged = "" if upload.changed else "   (nothing was changed: the Hub has all of it already)"
        say("published", f"{upload.url}{unchanged}")
