"""cse push: publish a checkpoint to the Hugging Face Hub."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

HELP = "publish a checkpoint to the Hugging Face Hub"
EPILOG = "The token is the Hub's own: HF_TOKEN, or what `hf auth login` keeps. HF_ENDPOINT names another Hub."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = EPILOG
    parser.add_argument("checkpoint", type=Path, help="a run's best/ or last/")
    parser.add_argument("repo", help="you/name; created where it is not there")
    parser.add_argument("--private", action="store_true", help="if the repository is created")
    parser.add_argument("--revision", metavar="BRANCH", help="created from main where it is not there; default: main")
    parser.add_argument("--pr", action="store_true", help="open a pull request rather than commit")
    parser.add_argument("--message", help="of the commit; default: one with the score")
    parser.add_argument("--adapter", action="store_true", help="of a LoRA run, the adapter alone, for peft")
    parser.add_argument("--base", metavar="ID", help="with --adapter: where the Hub has the run's local backbone")
    parser.add_argument("--dry-run", action="store_true", help="say what would go; contacts nothing")
    parser.add_argument("--results", type=Path, metavar="JSON", help="default: results.json of the checkpoint's run")
    parser.add_argument("--license", metavar="ID", help="as the Hub names it: apache-2.0, mit ...")


def run(arguments: argparse.Namespace, _: list[str]) -> int:
    """Upload."""
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
    say("scores", str(upload.results or "none found, and the card says so; run cse eval CKPT, or give --results"))
    for line in upload.verified:
        say("verified", line)
    for path in upload.removed:
        say("removed", f"{path}   of the model that was there")
    say("message", upload.message)
    if a.dry_run:
        say("dry run", f"{len(upload.files)} files, {shown_size(sum(upload.files.values()))}; nothing was contacted")
    else:
        say("published", upload.url if upload.changed else f"{upload.url}   (nothing new: it was there already)")
    return 0
