"""Arrays of vectors: scaling rows to length 1, and writing rows to disk so that a killed job resumes.

While a file is written, PATH.partial holds the rows so far in the format of the final .npy file, and PATH.partial.json
holds the number of complete rows and what they were made from.
"""

from __future__ import annotations

import io
import mmap
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from cse.errors import UserError
from cse.files import atomic_file, read_json, write_json

F = TypeVar("F", bound=np.floating[Any])


def unit(vectors: NDArray[F]) -> NDArray[F]:
    """The rows (n, D) scaled to length 1; a row of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: NDArray[F] = vectors / np.maximum(lengths, np.finfo(vectors.dtype).tiny)
    return scaled


def release(vectors: Any) -> None:
    """Let go of the pages of a memory-mapped array that were read; they stay in the system's cache of files.

    Without it, an array on disk that is read once is counted as memory of this process, as large as it is.
    """
    for part in getattr(vectors, "parts", [vectors]):  # of several files, those of each
        mapped = getattr(part, "_mmap", None)
        if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
            mapped.madvise(mmap.MADV_DONTNEED)


def partial_files(path: Path) -> tuple[Path, Path]:
    """The two files of an unfinished `path`: its rows, and the note about them."""
    return path.with_name(f"{path.name}.partial"), path.with_name(f"{path.name}.partial.json")


class Rows:
    """The rows that have been written so far.

    Attributes:
        done: Number of complete rows.
    """

    def __init__(self, path: Path, file: IO[bytes], made_from: dict[str, Any], done: int) -> None:
        self._path, self._file, self._made_from = path, file, made_from
        self.done = done

    def append(self, vectors: NDArray[np.float32]) -> None:
        """Append rows (n, D), and count them when they are on the disk."""
        self._file.write(np.ascontiguousarray(vectors, dtype="<f4").data)
        self._file.flush()
        os.fsync(self._file.fileno())
        self.done += len(vectors)
        # The note is written after the rows, so a kill between the two loses only these rows.
        write_json(partial_files(self._path)[1], {"rows": self.done, "made_from": self._made_from})

    def finish(self, convert: Callable[[Path, Path], None] | None = None) -> None:
        """Rename the file to its final name, or let `convert(rows, file)` write a file of another format."""
        self._file.close()  # Windows cannot rename an open file
        vectors, about = partial_files(self._path)
        if convert is None:
            os.replace(vectors, self._path)
        else:
            with atomic_file(self._path) as scratch:
                convert(vectors, scratch)
            vectors.unlink()
        about.unlink()


@contextmanager
def resumable(path: Path, shape: tuple[int, int], made_from: dict[str, Any]) -> Iterator[Rows]:
    """Open an unfinished `path` after its last complete row, for this process alone.

    Args:
        path: The final file. It does not exist before `Rows.finish`; its rows are in `partial_files`.
        shape: The shape (n, D) of the complete array.
        made_from: Everything that the rows depend on, as JSON. A partial file that was made from something else is
            refused.

    Raises:
        UserError: Another process is writing the file, or the partial file was made from something else.
    """
    vectors, _ = partial_files(path)
    with (
        only_writer(path),
        os.fdopen(os.open(vectors, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666), "r+b") as file,
    ):
        header, row = _header(shape), shape[1] * 4
        done = _whole_rows(path, made_from, len(header), row)
        file.write(header)
        file.truncate(len(header) + done * row)
        file.seek(0, os.SEEK_END)
        yield Rows(path, file, made_from, done)


@contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """In this block, no other process writes a file.

    Raises:
        UserError: Another process is writing it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f"{path.name}.partial.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"--out {path}: another process is writing this file\nfix: wait until it ends, or give another file"
        ) from None
    try:
        yield
    finally:
        lock.release()
        if not partial_files(path)[0].exists():  # the file is finished, so the lock is no longer needed
            with suppress(OSError):
                Path(lock.lock_file).unlink()


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """In words, how the settings that vectors are made from changed."""
    return [
        f"the {name} changed" if name in {"texts", "checkpoint"} else f"{name} was {before.get(name)} and is {value}"
        for name, value in now.items()
        if before.get(name) != value
    ]


def _whole_rows(path: Path, made_from: dict[str, Any], header: int, row: int) -> int:
    """The number of complete rows in the partial file; 0 if it is new.

    Raises:
        UserError: The partial file was made from something else.
    """
    vectors, about = partial_files(path)
    size = vectors.stat().st_size
    try:
        known = read_json(about)
        before, rows = dict(known["made_from"]), int(known["rows"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    if not size:  # the process was killed after the last step, before it removed the note
        return 0
    if changed := differences(before, made_from):
        raise UserError(
            f"{vectors} belongs to an unfinished run with different settings: {', '.join(changed)}\n"
            "fix: run with the same settings to resume it, or remove the file to start over"
        )
    return rows if size >= header + rows * row else 0


def _header(shape: tuple[int, int]) -> bytes:
    """The bytes that numpy.save writes before an array (n, D) of float32."""
    buffer = io.BytesIO()
    about: dict[str, Any] = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, about)
    return buffer.getvalue()
