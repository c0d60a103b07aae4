"""cse push: publish a checkpoint to the Hugging Face Hub."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

HELP = "publish a checkpoint to the Hugging Face Hub"
KEPT = "a push that was under way is complete or absent on the Hub"
EPILOG = "The token is that of huggingface_hub: HF_TOKEN, or the one of `hf auth login`. HF_ENDPOINT names another Hub."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    parser.epilog = EPILOG
    add("checkpoint", type=Path, help="a run's best/ or last/")
    add("repo", help="the repository, you/name; it is created if it does not exist")
    add("--private", action="store_true", help="create the repository as a private one")
    add("--revision", metavar="BRANCH", help="branch, created from main if it does not exist; default: main")
    add("--pr", dest="create_pr", action="store_true", help="open a pull request instead of committing to the branch")
    add("--message", help="commit message; default: one with the score")
    add("--adapter", action="store_true", help="publish only the adapter of a LoRA run, for peft")
    add("--base", metavar="ID", help="with --adapter: the Hub id of the backbone, if the run used a local one")
    add("--dimensions", metavar="N", help="publish the first N dimensions of the vectors only")
    add("--dry-run", action="store_true", help="list what would be sent; the Hub is not contacted")
    add("--results", type=Path, metavar="JSON", help="scores for the card; default: the results.json of the run")
    add("--license", metavar="ID", help="license of the model, as the Hub names it: apache-2.0, mit, ...")


def run(arguments: argparse.Namespace, _: list[str]) -> int:
    """Upload the checkpoint and print what was sent."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "0" if sys.stderr.isatty() else "1")
    from cse.console import quiet, say
    from cse.encoder import widths
    from cse.publish.hub import push, shown_size

    quiet()
    a = arguments
    names = ("private", "revision", "create_pr", "message", "results", "license", "adapter", "base", "dry_run")
    options = {name: getattr(a, name) for name in names} | {"dimensions": widths.parse_one(a.dimensions)}
    upload = push(a.checkpoint, a.repo, **options)
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
    return 0
