"""Vectors on disk, in one file or a folder of shards, read as one array of which only rows in use are in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cse.encoder.job import is_whole
from cse.errors import UserError
from cse.files import DAMAGED, sha256_file
from cse.inference.shards import INDEX, Shard, fingerprint, read_index

FIX = "give a .npy file with an array (n, D) of numbers, or a folder of shards, such as cse encode writes"


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
    """The array of a shard, memory-mapped, after a check of its sum, if that is beside it.

    Args:
        file: The shard.
        shape: Its shape (n, D), as the index of its folder says.
        dtype: Its type.
        what: What a message calls it.

    Raises:
        UserError: The shard is damaged, or is another one.
    """
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
