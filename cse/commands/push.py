"""cse push: publish a checkpoint to the Hugging Face Hub."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

HELP = "publish a checkpoint to the Hugging Face Hub"
EPILOG = "The token is that of huggingface_hub: HF_TOKEN, or the one of `hf auth login`. HF_ENDPOINT names another Hub."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = EPILOG
    parser.add_argument("checkpoint", type=Path, help="a run's best/ or last/")
    parser.add_argument("repo", help="the repository, you/name; it is created if it does not exist")
    parser.add_argument("--private", action="store_true", help="create the repository as a private one")
    parser.add_argument(
        "--revision", metavar="BRANCH", help="branch, created from main if it does not exist; default: main"
    )
    parser.add_argument("--pr", action="store_true", help="open a pull request instead of committing to the branch")
    parser.add_argument("--message", help="commit message; default: one with the score")
    parser.add_argument("--adapter", action="store_true", help="publish only the adapter of a LoRA run, for peft")
    parser.add_argument(
        "--base", metavar="ID", help="with --adapter: the Hub id of the backbone, if the run used a local one"
    )
    parser.add_argument("--dry-run", action="store_true", help="list what would be sent; the Hub is not contacted")
    parser.add_argument(
        "--results",
        type=Path,
        metavar="JSON",
        help="scores for the card; default: the results.json in the checkpoint's run",
    )
    parser.add_argument(
        "--license", metavar="ID", help="license of the model, as the Hub names it: apache-2.0, mit, ..."
    )


def run(arguments: argparse.Namespace, _: list[str]) -> int:
    """Upload the checkpoint and print what was sent."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "0" if sys.stderr.isatty() else "1")
    from cse.console import quiet, say
    from cse.publish.hub import push, shown_size

    quiet()
    a = arguments
    upload = push(
        a.checkpoint,
        a.repo,
        private=a.private,
        revision=a.revision,
        create_pr=a.pr,
        message=a.message,
        results=a.results,
        license=a.license,
        adapter=a.adapter,
        base=a.base,
        dry_run=a.dry_run,
    )
    for path, size in upload.files.items():
        say("would send" if a.dry_run else "file", f"{path}   {shown_size(size)}")
    for path in upload.left_out:
        say("left out", path)
    say(
        "scores",
        str(
            upload.results or f"none were found, and the card says so; run `cse eval {a.checkpoint}`, or give --results"
        ),
    )
    for line in upload.verified:
        say("verified", line)
    for path in upload.removed:
        say("removed", f"{path}   (a file of the earlier model)")
    say("message", upload.message)
    if a.dry_run:
        say(
            "dry run", f"{len(upload.files)} files, {shown_size(sum(upload.files.values()))}; the Hub was not contacted"
        )
    else:
        say(
            "published",
            upload.url if upload.changed else f"{upload.url}   (nothing was changed: the Hub has all of it already)",
        )
    return 0
