"""Shards: parts of a long job that any process on any machine does by itself, each completely or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cse.encoder.job import differences, is_whole
from cse.errors import UserError
from cse.files import DAMAGED, misfit, read_sealed, sha256_file, write_sealed

INDEX = "index.json"
SHAPE = {"made_from": {}, "shards": [{"file": str, "rows": int}], "width?": int, "dtype?": str}
FIX = "give a .npy file with an array (n, D) of numbers, or a folder of shards, such as cse encode writes"


@dataclass(frozen=True, slots=True)
class Shard:
    """One of the parts of a job."""

    number: int  # the number of the part, counted from 1
    of: int  # number of parts

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

    They are `shard`, such as 3/64, or every W-th of `shards`, for the W processes that were started together; see
    `launched`. With `together`, the processes of torchrun work on each shard instead of each on some.
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
    tasks of an array job of SLURM (SLURM_ARRAY_TASK_ID, whatever it begins with, of SLURM_ARRAY_TASK_COUNT). Without
    `torchrun`, the processes of one torchrun count as one.
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
    What is compared, `made_from` and the file and the rows of each shard, never changes, so it does not matter who that
    is; and which shards exist is seen from the folder. `more` is noted and not compared.
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
    """The content of a folder's `index.json`; None if it does not exist."""
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
    """Say what is wrong with the names of the files of shards; empty for nothing."""
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


class ShardedVectors:
    """Vectors (n, D) in several arrays, such as memory-mapped files; any rows of them are an array in memory.

    `vectors[3]` is a row, and `vectors[3:9]` and `vectors[numbers]` are rows; numpy takes the whole for an array.

    Args:
        parts: Arrays (m, D) of one width and type.
    """

    ndim = 2

    def __init__(self, parts: Sequence[NDArray[Any]]) -> None:
        self.parts = list(parts)
        self._ends = np.cumsum([len(part) for part in parts])
        self.shape, self.dtype = (int(self._ends[-1]), int(parts[0].shape[1])), parts[0].dtype

    @property
    def size(self) -> int:
        """Number of values."""
        return self.shape[0] * self.shape[1]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: int | slice | NDArray[np.integer[Any]]) -> NDArray[Any]:
        numbers = np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else np.asarray(rows)
        flat = numbers.reshape(-1)
        if len(flat) and not -len(self) <= flat.min() <= flat.max() < len(self):
            raise IndexError(f"there is no row {rows} among {len(self)}")
        flat = np.where(flat < 0, flat + len(self), flat).astype(np.int64)
        part_of = np.searchsorted(self._ends, flat, side="right")
        found = np.empty((len(flat), self.shape[1]), dtype=self.dtype)
        for part in np.unique(part_of):
            at = part_of == part
            found[at] = self.parts[part][flat[at] - self._ends[part] + len(self.parts[part])]
        return found.reshape(*numbers.shape, self.shape[1])

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype=dtype)


VectorsOnDisk: TypeAlias = NDArray[Any] | ShardedVectors


def open_vectors(path: str | Path, *, option: str = "vectors") -> VectorsOnDisk:
    """The vectors (n, D) of a .npy file, or of a folder of shards that `cse encode` wrote, memory-mapped.

    Args:
        path: The file or the folder.
        option: What a message calls it.

    Raises:
        UserError: A file cannot be read or has something else; or the folder lacks shards, or has those of another job.
    """
    where = Path(path).expanduser()
    known = read_index(where) if where.is_dir() else None
    if known is None:
        table = _array(where, f"{option} {path}")
        if table.ndim != 2 or table.dtype.kind not in "fiu" or not table.size:
            raise UserError(f"{option} {path} has an array {table.shape} of {table.dtype}\nfix: {FIX}")
        return table
    _require_all(where, known, f"{option} {path}")
    parts = []
    for each in known["shards"]:
        shape, what = (each["rows"], known.get("width", 0)), f"{option} {path}: {each['file']}"
        parts.append(open_shard(where / each["file"], shape, known.get("dtype", "vectors"), what))
    return ShardedVectors(parts)


def open_shard(file: Path, shape: tuple[int, int], dtype: str, what: str) -> NDArray[Any]:
    """The array (n, D) of a shard, memory-mapped, after a check of its sum, if that is beside it."""
    again = "run the cse encode that wrote it again, which encodes this shard again"
    if not is_whole(file):
        raise UserError(f"{what} is damaged or changed: its sha256 is not the one in {file.name}.sha256\nfix: {again}")
    part = _array(file, what, again)
    if part.shape != shape or part.dtype.name != dtype:
        raise UserError(f"{what} has an array {part.shape} of {part.dtype}, not {shape} of {dtype}\nfix: {again}")
    return part


def identity(path: str | Path) -> str:
    """A text that differs if the vectors of a file or of a folder of shards do."""
    where = Path(path).expanduser()
    known = read_index(where) if where.is_dir() else None
    return sha256_file(where) if known is None else fingerprint([known["made_from"], known["shards"]])


def missing(folder: Path) -> list[Shard]:
    """The shards that a folder lacks."""
    shards = (read_index(folder) or {"shards": []})["shards"]
    return [Shard(i, len(shards)) for i, each in enumerate(shards, 1) if not (folder / each["file"]).exists()]


def _require_all(folder: Path, known: dict[str, Any], what: str) -> None:
    """Raise unless a folder has the shards of its index, and of no other job."""
    absent = missing(folder)
    if absent:
        several = len(absent) > 1
        names = ", ".join(map(str, absent[:8])) + (" ..." if len(absent) > 8 else "")
        raise UserError(
            f"{what} has {len(known['shards']) - len(absent)} of {len(known['shards'])} shards; {names} "
            f"{'are' if several else 'is'} missing\nfix: run the cse encode that wrote it with --shard {absent[0]}"
            f"{', and so on' if several else ''}"
        )
    own = {each["file"] for each in known["shards"]}
    others = sorted(file.name for file in folder.glob("*-of-*.npy") if file.name not in own)
    if others:
        raise UserError(
            f"{what} has shards of another model, or of other texts or settings: {', '.join(others[:4])}\n"
            f"fix: move what does not belong to {INDEX} to another folder"
        )


def _array(file: Path, what: str, fix: str = FIX) -> NDArray[Any]:
    try:
        table = np.load(file, mmap_mode="r", allow_pickle=False)
    except (*DAMAGED, EOFError, SyntaxError, TokenError) as error:  # the last two: of the header, which numpy parses
        reason = (str(error).strip() or "it is empty").splitlines()[0][:160]
        raise UserError(f"{what} cannot be read: {reason}\nfix: {fix}") from error
    if not isinstance(table, np.ndarray):
        raise UserError(f"{what} has several arrays\nfix: {fix}")
    return table
