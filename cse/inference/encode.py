"""Vectors of a file of any size, a window of rows at a time; a killed job resumes after its last whole window."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from cse.data.sources import Column, read
from cse.encoder.identity import model_hash
from cse.encoder.model import Encoder, Precision, uses_bf16
from cse.errors import UserError
from cse.inference.vectors import resumable, unit

FORMATS = (".npy", ".parquet")
WINDOW = 32_768  # rows
WINDOW_LETTERS = 1 << 22  # a window ends here too, so that long texts do not make it large in memory


@dataclass(frozen=True, slots=True)
class TextFile:
    """The rows of a file, one text each.

    Attributes:
        path: The source; see `cse.data.sources.read`.
        column: The column of a table that holds the texts.
        rows: Number of rows.
        blank: Number of rows that are empty.
        sha256: Hash of all texts.
    """

    path: str
    column: str
    rows: int
    blank: int
    sha256: str

    @classmethod
    def scan(cls, path: str, column: str = "text") -> TextFile:
        """Read the file once, so that what is wrong with its last row is said before any work.

        Raises:
            UserError: It cannot be read, or has no rows.
        """
        digest, rows, blank = hashlib.sha256(), 0, 0
        for text in _read(path, column):
            digest.update(f"{len(text)}:{text}".encode())  # so that no two lists of texts read the same
            rows, blank = rows + 1, blank + (not text.strip())
        if not rows:
            raise UserError(f"texts {path}: the file is empty\nfix: give a file with texts")
        return cls(path, column, rows, blank, digest.hexdigest())

    def windows(self, rows: int, skip: int = 0) -> Iterator[list[str]]:
        """All texts in lists of at most `rows` rows and `WINDOW_LETTERS`, without the first `skip` texts.

        Where a window ends depends on the texts alone if `skip` is itself the end of one.
        """
        window: list[str] = []
        letters = 0
        for text in islice(_read(self.path, self.column), skip, None):
            if window and (len(window) == rows or letters + len(text) > WINDOW_LETTERS):
                yield window
                window, letters = [], 0
            window.append(text)
            letters += len(text)
        if window:
            yield window


def encode_file(
    encoder: Encoder,
    texts: TextFile,
    out: Path,
    *,
    precision: Precision = "auto",
    normalize: bool = False,
    dims: int | None = None,
    window: int = WINDOW,
    progress: Callable[[int], None] = lambda rows: None,
) -> tuple[int, int]:
    """Write the vectors of texts, one row each and in their order; an empty text has a vector too.

    A call that was killed resumes if it is repeated with the same arguments, and the file has the same bytes as if it
    had not been killed (on the same machine and number of threads).

    Args:
        encoder: The encoder.
        texts: The rows.
        out: A .npy file, (n, D) float32; or a .parquet file with columns `row`, from 0, and `vector`, a list of D.
        precision: See `Encoder.encode`.
        normalize: Scale each vector to length 1.
        dims: Keep this many first components (before scaling); None: all.
        window: Rows that are encoded, and saved, at a time.
        progress: A function to call with the number of complete rows, at first and after each window.

    Returns:
        (n, D).

    Raises:
        UserError: An argument is out of range, a partial file of other texts, checkpoint or options exists, or
            the disk is full.
    """
    check_out(out)
    size = _dims(dims, encoder.dim)
    if window < 1:
        raise UserError(f"--window is {window}\nfix: give an integer >= 1")
    computed: Precision = "bf16" if uses_bf16(precision, encoder.device) else "fp32"
    made_from = {
        "texts": texts.sha256,
        "checkpoint": model_hash(encoder),
        "precision": computed,
        "normalize": normalize,
        "dims": size,
        "window": window,
        "device": encoder.device.type,
        "torch": torch.__version__,
    }
    shape = (texts.rows, size)
    with _written(out), resumable(out, shape, made_from) as written:
        progress(written.done)
        for rows in texts.windows(window, skip=written.done):
            vectors = encoder.encode(rows, precision=computed)[:, :size]
            written.append(unit(vectors) if normalize else vectors)
            progress(written.done)
        if written.done != texts.rows:
            raise UserError(f"texts {texts.path}: it changed while it was read\nfix: run again when it is complete")
        written.finish(_to_parquet if out.suffix == ".parquet" else None)
    return shape


def check_out(out: Path) -> None:
    """Refuse a file that cannot be written, before any work.

    Raises:
        UserError: Its name ends otherwise, it is a folder, or its folder is not to be written to.
    """
    if out.suffix not in FORMATS:
        raise UserError(f"--out is {out}\nfix: give a name that ends in {' or '.join(FORMATS)}")
    if out.is_dir():
        raise UserError(f"--out {out} is a folder\nfix: give a file in it, such as {out / ('vectors' + out.suffix)}")
    folder = next(parent for parent in out.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(f"--out {out}: {folder} is not a folder that can be written to\nfix: give another place")


def _read(path: str, column: str) -> Iterator[str]:
    """The texts of all rows; an empty one for a blank line or an empty cell."""
    try:
        for row in read(path, [Column("--column", column)]):
            yield row.cells[0] or ""
    except UserError as error:  # the reader speaks of a recipe's option
        message = str(error).replace("data.path", "texts").replace("--data.init_args.path=my.txt", "my.txt")
        raise UserError(message) from error


def _dims(dims: int | None, most: int) -> int:
    if dims is not None and not 1 <= dims <= most:
        raise UserError(f"--dims is {dims}, but the vectors have {most} components\nfix: give 1 to {most}")
    return dims or most


# -- On disk -----------------------------------------------------------------------------------------------------------


@contextmanager
def _written(out: Path) -> Iterator[None]:
    """Say in words that the disk is full or fails; what is whole so far stays."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"--out {out} cannot be written: {error.strerror or error}\n"
            "fix: make room and run the same command again; it resumes where it stopped"
        ) from error


def _to_parquet(source: Path, target: Path) -> None:
    """The same rows as a table, a row group for each `WINDOW`."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    vectors = np.load(source, mmap_mode="r")  # (n, D)
    rows, size = vectors.shape
    schema = pa.schema([("row", pa.int64()), ("vector", pa.list_(pa.float32(), size))])
    with ParquetWriter(target, schema, compression="none", use_dictionary=["row"]) as writer:
        for start in range(0, rows, WINDOW):
            part = np.ascontiguousarray(vectors[start : start + WINDOW])
            flat = pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), size)
            numbers = pa.array(np.arange(start, start + len(part), dtype=np.int64))
            writer.write_table(pa.table([numbers, flat], schema=schema))
