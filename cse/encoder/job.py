"""Long jobs of encoding: rows that are read ahead and written so that a killed job resumes, and the cache of vectors.

While a file is written, PATH.partial holds the rows so far in the format of the final .npy file, and PATH.partial.json
holds the number of complete rows, their sha256 and what they were made from. Beside a file that is read again later,
such as a shard, PATH.sha256 is its sum in the format of `sha256sum`.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from contextvars import copy_context
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from cse import distributed
from cse.console import progress, say
from cse.errors import UserError
from cse.files import atomic_file, cache_dir, read_json, sha256_file, write_json, write_text, writing_cache

if TYPE_CHECKING:
    from cse.encoder.device import Precision
    from cse.encoder.model import Encoder
    from cse.encoder.texts import Windows
from cse.encoder.vectors import unit

BLOCK = 16_384  # rows that are read at once
T = TypeVar("T")
R = TypeVar("R")
CHUNK = 8_192  # texts that are encoded before the rows are saved


def partial_files(path: Path) -> tuple[Path, Path]:
    """The two files of an unfinished `path`: its rows, and the note about them."""
    return path.with_name(f"{path.name}.partial"), path.with_name(f"{path.name}.partial.json")


class Rows:
    """The rows that have been written so far.

    Attributes:
        done: Number of complete rows.
    """

    def __init__(self, path: Path, file: IO[bytes], made_from: dict[str, Any], shape: tuple[int, int]) -> None:
        self._path, self._file, self._made_from = path, file, made_from
        header, row = _header(shape), shape[1] * 4
        self.done, self._sum = _whole_rows(path, made_from, len(header), row)
        file.write(header)
        file.truncate(len(header) + self.done * row)
        file.seek(0, os.SEEK_END)

    def append(self, vectors: NDArray[np.float32]) -> None:
        """Append rows (n, D), and count them when they are on the disk."""
        rows = np.ascontiguousarray(vectors, dtype="<f4").data
        self._file.write(rows)
        self._sum.update(rows)
        self._file.flush()
        os.fsync(self._file.fileno())
        self.done += len(vectors)
        # The note is written after the rows, so a kill between the two loses only these rows.
        note = {"rows": self.done, "sha256": self._sum.hexdigest(), "made_from": self._made_from}
        write_json(partial_files(self._path)[1], note)

    def finish(self, convert: Callable[[Path, Path], None] | None = None, *, summed: bool = False) -> None:
        """Rename the file to its final name, or let `convert(rows, file)` write a file of another format.

        With `summed`, the sum of the file is written beside it, for `is_whole`.
        """
        self._file.close()  # Windows cannot rename an open file
        vectors, about = partial_files(self._path)
        with nullcontext(vectors) if convert is None else atomic_file(self._path) as made:
            if convert is not None:
                convert(vectors, made)
            if summed:
                write_text(_sum_file(self._path), _sum(made, self._path))
        if convert is None:
            os.replace(vectors, self._path)
        vectors.unlink(missing_ok=True)
        about.unlink()


def is_cached(file: Path) -> bool:
    """Tell whether the cache has a file. One that has changed since it was written is said and removed."""
    if not file.exists() or is_whole(file):
        return file.exists()
    say("note", f"{file} has changed since it was written: it is made again")
    file.unlink()
    return False


def is_whole(path: Path) -> bool:
    """Tell whether a finished file has the sum that is written beside it; true if none is."""
    known = _sum_file(path)
    return not known.is_file() or known.read_text(errors="replace") == _sum(path, path)


def _sum_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _sum(file: Path, path: Path) -> str:
    """The sum of a file that has the name of `path`, or will have it."""
    return f"{sha256_file(file)}  {path.name}\n"


@contextmanager
def resumable(path: Path, shape: tuple[int, int], made_from: dict[str, Any]) -> Iterator[Rows]:
    """Open an unfinished `path` of shape (n, D) after its last complete row, for this process alone.

    The file does not exist before `Rows.finish`. `made_from` is everything that the rows depend on, as JSON; rows that
    were made from something else are refused.
    """
    vectors, _ = partial_files(path)
    with (
        only_writer(path),
        os.fdopen(os.open(vectors, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666), "r+b") as file,
    ):
        yield Rows(path, file, made_from, shape)


@contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """In this block, no other process writes a file."""
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


def _whole_rows(path: Path, made_from: dict[str, Any], header: int, row: int) -> tuple[int, Any]:
    """The number of complete rows in the partial file, and their sum so far; 0 if it is new or damaged."""
    (vectors, about), digest = partial_files(path), hashlib.sha256()
    try:
        known = read_json(about)
        before, rows = dict(known["made_from"]), int(known["rows"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0, digest
    if not (size := vectors.stat().st_size):  # the process was killed after the last step, before it removed the note
        return 0, digest
    if changed := differences(before, made_from):
        raise UserError(
            f"{vectors} belongs to an unfinished run with different settings: {', '.join(changed)}\n"
            "fix: run with the same settings to resume it, or remove the file to start over"
        )
    with vectors.open("rb") as file:
        file.seek(header)
        for start in range(0, rows if header + rows * row <= size else 0, BLOCK):
            digest.update(file.read(min(BLOCK, rows - start) * row))
    if digest.hexdigest() == known.get("sha256"):
        return max(0, rows), digest
    say("note", f"{vectors} is damaged: its {rows:,} rows are made again")
    return 0, hashlib.sha256()


def _header(shape: tuple[int, int]) -> bytes:
    """The bytes that numpy.save writes before an array (n, D) of float32."""
    buffer = io.BytesIO()
    about: dict[str, Any] = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, about)
    return buffer.getvalue()


@contextmanager
def ahead(work: Callable[[T], R], items: Iterable[T]) -> Iterator[Iterator[R]]:
    """Yield what `work` makes of each item, in order; a thread makes the next one while the caller uses one.

    The thread takes the items as well, and is one item ahead, so that two results are in memory at most. What it raises
    is raised in its turn, after the results before it. It has ended when the block ends.
    """
    rest = iter(items)

    def one() -> list[R]:
        """The next result, or nothing at the end."""
        for item in rest:
            return [work(item)]
        return []

    with ThreadPoolExecutor(1) as thread:

        def results() -> Iterator[R]:
            coming = thread.submit(copy_context().run, one)
            while found := coming.result():
                coming = thread.submit(copy_context().run, one)
                yield found.pop()

        yield results()


def fill(
    rows: Rows,
    blocks: Iterable[T],
    read: Callable[[T], R],
    vectors: Callable[[R], NDArray[np.float32]],
    advance: Callable[[int], None],
) -> None:
    """Append the vectors of block after block; a thread reads the next block while one is encoded."""
    with ahead(read, blocks) as found:
        for block in found:
            rows.append(vectors(block))
            advance(rows.done)


def cached_vectors(
    encoder: Encoder,
    model_hash: str,
    texts: Sequence[str],
    precision: Precision,
    prompt: str = "",
    *,
    together: bool = False,
) -> NDArray[np.float32]:
    """The unit vectors (n, D) of texts, from the cache if they were encoded before.

    The array is on disk, so memory does not grow with the texts. A job that was killed resumes where it stopped and
    gives the same vectors. If all processes call it `together`, each encodes its share and one writes the file.
    """
    digest = hashlib.sha256(f"2 {model_hash} {precision} {CHUNK}".encode())
    for text in [f"prompt {prompt}", *texts] if prompt else texts:
        digest.update(text.encode() + b"\x1e")
    file = cache_dir() / "vectors" / f"{digest.hexdigest()[:32]}.npy"
    with writing_cache("vectors"):
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock") if _writes(together) else nullcontext():
            _fill(file, encoder, texts, precision, prompt, together=together)
    if together and not distributed.comes(file.is_file):
        raise UserError(
            f"vectors: process 0 wrote {file}, which does not appear to {distributed.me()}\n"
            "fix: set CSE_CACHE to one folder on a file system that all nodes share"
        )
    return np.load(file, mmap_mode="r")


def _writes(together: bool) -> bool:
    return not together or distributed.rank() == 0


def _fill(
    file: Path, encoder: Encoder, texts: Sequence[str], precision: Precision, prompt: str, *, together: bool
) -> None:
    def read(start: int) -> Windows:
        return encoder.read(texts[start : start + CHUNK], prompt=prompt)

    with ExitStack() as opened:
        rows, advance = None, None
        if _writes(together) and not is_cached(file):
            rows = opened.enter_context(resumable(file, (len(texts), encoder.dim), {}))
            advance = opened.enter_context(progress("vectors", len(texts), lines=len(texts) > CHUNK))
        done = len(texts) if rows is None else rows.done
        starts = range(distributed.broadcast(done) if together else done, len(texts), CHUNK)
        own = starts[distributed.rank() :: distributed.world_size()] if together else starts
        tokens = opened.enter_context(ahead(read, own))

        def encode(_: int) -> NDArray[np.float32]:
            return unit(encoder.encode_read(next(tokens), precision=precision))

        for vectors in distributed.in_turn(starts, encode) if together else map(encode, starts):
            if rows is not None and advance is not None:
                rows.append(vectors)
                advance(rows.done)
        if rows is not None:
            rows.finish(summed=True)
    if together:
        distributed.broadcast(None)  # no process reads the file before it is complete
