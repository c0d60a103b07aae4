"""Shards: parts of a long job that any process on any machine does by itself, each completely or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cse.encoder.job import differences
from cse.errors import UserError
from cse.files import misfit, read_sealed, write_sealed

INDEX = "index.json"
SHAPE = {"made_from": {}, "shards": [{"file": str, "rows": int}], "width?": int, "dtype?": str}


@dataclass(frozen=True, slots=True)
class Shard:
    """One of the parts of a job.

    Attributes:
        number: The number of the part, counted from 1.
        of: Number of parts.
    """

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @property
    def name(self) -> str:
        """The name of its file, without an ending."""
        return f"{self.number:05d}-of-{self.of:05d}"

    def share(self, pieces: int) -> range:
        """The pieces of a job that belong to the shard: neighbors, and of all pieces an equal number, within one."""
        return range((self.number - 1) * pieces // self.of, self.number * pieces // self.of)


def chosen(shard: str | None, shards: int | None, *, together: bool = False) -> list[Shard]:
    """The shards that this process works on; none if the job is not cut.

    Args:
        shard: One shard, as `3/64`.
        shards: Number of shards, which the processes that were started together share; see `launched`. A process
            has every W-th shard, so there may be more shards than processes.
        together: Whether the processes of torchrun work on each shard together, instead of each on some.

    Raises:
        UserError: A value is out of range, or both are given.
    """
    if shard is not None and shards is not None:
        raise UserError(f"--shard is {shard} and --shards is {shards}\nfix: give one of the two")
    if shard is not None:
        found = re.fullmatch(r"(\d+)/(\d+)", shard.strip())
        number, of = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 1 <= number <= of:
            known = f"1/{of} to {of}/{of}" if of else "3/64"
            raise UserError(f"--shard is {shard}, and shards are counted from 1\nfix: give {known}")
        return [Shard(number, of)]
    if shards is None:
        return []
    if shards < 1:
        raise UserError(f"--shards is {shards}\nfix: give a number >= 1")
    rank, processes = launched(torchrun=not together)
    if shards < processes:
        raise UserError(
            f"--shards is {shards}, and {processes} processes are to share them\nfix: give --shards {processes} or more"
        )
    return [Shard(number + 1, shards) for number in range(rank, shards, processes)]


def launched(*, torchrun: bool = True) -> tuple[int, int]:
    """The number of this process, from 0, and the number of processes that were started together.

    They are those of torchrun (RANK of WORLD_SIZE), or else of srun (SLURM_PROCID of SLURM_NTASKS), multiplied by the
    tasks of an array job of SLURM (SLURM_ARRAY_TASK_ID, whatever it begins with, of SLURM_ARRAY_TASK_COUNT).

    Args:
        torchrun: Whether the processes of one torchrun count as several.

    Raises:
        UserError: The environment is that of a launcher, and its numbers do not fit together.
    """
    steps = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"), ("SLURM_PROCID", "SLURM_NTASKS"))
    rank, size = next((_pair(*names) for names in steps if all(name in os.environ for name in names)), (0, 1))
    if not torchrun and "WORLD_SIZE" in os.environ:
        rank, size = 0, 1
    if "SLURM_ARRAY_TASK_COUNT" not in os.environ:
        return rank, size
    task, tasks = _pair("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT")
    return task * size + rank, tasks * size


def _pair(number: str, count: str) -> tuple[int, int]:
    """A number, from 0, and how many there are, from variables of the environment."""
    first = step = 0
    try:
        value, many = int(os.environ[number]), int(os.environ[count])
        if number == "SLURM_ARRAY_TASK_ID":
            first = int(os.environ.get("SLURM_ARRAY_TASK_MIN", "0"))
            step = int(os.environ.get("SLURM_ARRAY_TASK_STEP", "1"))
            value = (value - first) // step if (value - first) % step == 0 else -1
    except (KeyError, ValueError, ZeroDivisionError):
        value, many = -1, 0
    if not 0 <= value < many:
        named = f"{number}={os.environ.get(number)} and {count}={os.environ.get(count)}"
        began = f", where the first task is {first} and the step {step}" if step else ""
        raise UserError(f"--shards cannot be shared: {named}{began}\nfix: give --shard, such as --shard 3/64")
    return value, many


# -- The folder of a job --------------------------------------------------------------------------------------------


def claim(
    folder: Path, made_from: Mapping[str, Any], shards: Sequence[Mapping[str, Any]], more: Mapping[str, Any]
) -> None:
    """Write `index.json`, which says what a folder of shards is made from, or check that it says the same.

    Shards that different processes write at different times thus belong together. Whoever comes first writes the file.
    What is compared never changes, so it does not matter who that is; and which shards exist is seen from the folder.

    Args:
        folder: The folder.
        made_from: Everything that all shards depend on, as JSON.
        shards: The name of each shard's file, and its number of rows.
        more: What is noted beside it, and not compared.

    Raises:
        UserError: The folder has shards that are made from something else.
    """
    known = read_index(folder)
    content = json.loads(json.dumps({**more, "made_from": made_from, "shards": shards}))
    if known is None:
        write_sealed(folder / INDEX, content)
        return
    changed = differences(known.get("made_from", {}), content["made_from"])
    if not changed and known["shards"] != content["shards"]:
        changed = [f"shards was {len(known['shards'])} and is {len(shards)}"]
    if changed:
        raise UserError(
            f"--out {folder} has shards of a job with other settings: {', '.join(changed)}\n"
            "fix: give another folder, or run with the same settings"
        )


def read_index(folder: Path) -> dict[str, Any] | None:
    """The content of a folder's `index.json`; None if it does not exist.

    Raises:
        UserError: The file cannot be read, or is not that of a folder of shards.
    """
    file = folder / INDEX
    try:
        found = read_sealed(file)
        if wrong := misfit(found, SHAPE) or _strange(found["shards"]):
            raise ValueError(wrong)
        return found
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}\nfix: give a folder that cse encode --shards wrote") from error


def _strange(shards: Sequence[Mapping[str, Any]]) -> str:
    """What is wrong with the names of the files of shards; empty for nothing."""
    names = [each["file"] for each in shards]
    outside = next((name for name in names if not re.fullmatch(r"[\w.-]+\.\w+", name)), None)
    return "it has no shards" if not names else "" if outside is None else f"it names the file {outside[:40]!r}"


def fingerprint(about: object) -> str:
    """Eight letters that differ if what the shards are made from does; they begin the names of the shards."""
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:8]


def require_pieces(pieces: int, shards: Sequence[Shard], what: str, fix: str) -> None:
    """Raise unless each shard has a piece of the job."""
    if shards and pieces < shards[0].of:
        raise UserError(
            f"there are {shards[0].of} shards, and only {pieces} {what}, of which each needs one\nfix: {fix}"
        )
