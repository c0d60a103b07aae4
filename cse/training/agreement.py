"""Compare what all processes of a run must have in common, when they have met and before anything is written."""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Mapping

from cse import distributed
from cse.environment import git_commit, versions
from cse.errors import UserError
from cse.training.run import Run


def check(run: Run) -> None:
    """Check that all processes have the same versions, recipe and rows.

    Raises:
        UserError: One differs from the first process. The message names it, its machine, and what differs.
    """
    if distributed.world_size() > 1:
        compare(facts(run))


def facts(run: Run) -> dict[str, str]:
    """List what must be the same everywhere, by its name: versions, commit, each line of the recipe, the rows."""
    lines = {f"the recipe's line {i}": line.strip() for i, line in enumerate(run.recipe.splitlines(), start=1)}
    # A copy of a file on one machine may have as many rows and other texts.
    rows = {"the number of rows": str(len(run.data)), "the sha256 of the rows": run.data.hash}
    return versions() | {"the commit of cse": git_commit() or "-"} | lines | rows


def compare(own: Mapping[str, str]) -> None:
    """Compare the facts of all processes by their hash, and by themselves if that differs.

    Raises:
        UserError: A process differs from the first one; all processes raise it.
    """
    digest = hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()
    digests = distributed.gather_objects(digest)
    if len(set(digests)) == 1:
        return
    everyone = distributed.gather_objects((socket.gethostname(), dict(own)))
    number = next(i for i, other in enumerate(digests) if other != digests[0])
    (host, first), (there, other) = everyone[0], everyone[number]
    what = next(name for name in {**first, **other} if first.get(name) != other.get(name))
    raise UserError(
        f"process {number} on {there} differs from process 0 on {host}: {what} is `{other.get(what, '')}` there, and "
        f"`{first.get(what, '')}` here\nfix: give every process the same versions, recipe, options and data"
    )
