"""Encodes a file of any size, one window of rows at a time; a killed job resumes after its last complete window."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from cse.data.rows import Column
from cse.data.sources import read
from cse.encoder import widths
from cse.encoder.identity import model_hash
from cse.encoder.model import Encoder
from cse.encoder.precision import Precision, uses_bf16
from cse.encoder.vectors import resumable, unit
from cse.errors import UserError
from cse.files import check_writable

FORMATS = (".npy", ".parquet")
WINDOW = 32_768  # rows
WINDOW_LETTERS = 1 << 22  # characters after which a window ends too, which bounds the memory for long texts


@dataclass(frozen=True, slots=True)
class TextFile:
    """A file of texts, one in each row.

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
        """Read the file once, so that an error in any row is reported before the work starts.

        Raises:
            UserError: The file cannot be read, or has no rows.
        """
        digest, rows, blank = hashlib.sha256(), 0, 0
        for text in _read(path, column):
            digest.update(
                f"{len(text)}:{text}".encode()
            )  # with lengths, so that different lists of texts differ in the hash
            rows, blank = rows + 1, blank + (not text.strip())
        if not rows:
            raise UserError(f"texts {path}: the file is empty\nfix: give a file with texts")
        return cls(path, column, rows, blank, digest.hexdigest())

    def windows(self, rows: int, skip: int = 0) -> Iterator[list[str]]:
        """All texts in lists of at most `rows` rows and `WINDOW_LETTERS`, without the first `skip` texts.

        The ends of the windows depend only on the texts if `skip` is itself the end of a window.
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
    dimensions: int | None = None,
    window: int = WINDOW,
    prompt_name: str | None = None,
    prompt: str | None = None,
    progress: Callable[[int], None] = lambda rows: None,
) -> tuple[int, int]:
    """Write the vectors of texts, one row for each text in their order; an empty text has a vector too.

    If the call is killed, the same call resumes, and the file has the same bytes as without the interruption (on the
    same machine with the same number of threads).

    Args:
        encoder: The encoder.
        texts: The rows.
        out: A .npy file, (n, D) float32; or a .parquet file with columns `row`, from 0, and `vector`, a list of D.
        precision: See `Encoder.encode`.
        normalize: Whether to scale each vector to length 1.
        dimensions: Number of first dimensions to keep, before scaling; see `Encoder.encode`. None: all.
        window: Number of rows that are encoded and saved at a time.
        prompt_name: See `Encoder.encode`.
        prompt: See `Encoder.encode`.
        progress: A function to call with the number of complete rows, at first and after each window.

    Returns:
        (n, D).

    Raises:
        UserError: An argument is out of range, the disk is full, or there is a partial file that was made from other
            texts, another checkpoint or other options.
    """
    check_out(out)
    size = encoder.dim if dimensions is None else dimensions
    widths.check([size], encoder.dim, option="--dimensions")
    if window < 1:
        raise UserError(f"--window is {window}\nfix: give an integer >= 1")
    before = encoder.prompt_text(prompt_name, prompt)
    computed: Precision = "bf16" if uses_bf16(precision, encoder.device) else "fp32"
    made_from = {
        "texts": texts.sha256,
        "checkpoint": model_hash(encoder),
        "precision": computed,
        "prompt": before,
        "normalize": normalize,
        "dimensions": size,
        "window": window,
        "device": encoder.device.type,
        "torch": torch.__version__,
    }
    shape = (texts.rows, size)
    with _written(out), resumable(out, shape, made_from) as written:
        progress(written.done)
        for rows in texts.windows(window, skip=written.done):
            vectors = encoder.encode(rows, precision=computed, prompt=before, dimensions=size)
            written.append(unit(vectors) if normalize else vectors)
            progress(written.done)
        if written.done != texts.rows:
            raise UserError(
                f"texts {texts.path} changed while the file was read\nfix: run again when the file is complete"
            )
        written.finish(_to_parquet if out.suffix == ".parquet" else None)
    return shape


def check_out(out: Path) -> None:
    """Check that a file can be written, before the work starts.

    Raises:
        UserError: Its name has another ending, or `check_writable` refuses it.
    """
    if out.suffix not in FORMATS:
        raise UserError(f"--out is {out}\nfix: give a name that ends in {' or '.join(FORMATS)}")
    check_writable(out)


def _read(path: str, column: str) -> Iterator[str]:
    """The texts of all rows; a blank line or an empty cell gives an empty text."""
    try:
        for row in read(path, [Column("--column", column)]):
            yield row.cells[0] or ""
    except UserError as error:  # the message of the reader names an option of recipes
        message = str(error).replace("data.path", "texts")
        raise UserError(message) from error


# -- On disk -----------------------------------------------------------------------------------------------------------


@contextmanager
def _written(out: Path) -> Iterator[None]:
    """Turn a full disk or a failure of it into a message for the user; complete windows stay."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"--out {out} cannot be written: {error.strerror or error}\n"
            "fix: free some space and run the same command again; it resumes where it stopped"
        ) from error


def _to_parquet(source: Path, target: Path) -> None:
    """Write the same rows as a parquet file, with one row group for each `WINDOW`."""
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
