"""What commands share that fit something to texts and write another checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from cse.data.reading.rows import Column
from cse.data.reading.sources import read
from cse.encoder.checkpoint.layout import is_checkpoint
from cse.errors import UserError
from cse.files import check_writable


def require_new(out: Path, checkpoint: str) -> None:
    """Check that a checkpoint can be written, before the work starts.

    Raises:
        UserError: The path cannot be written, has something else than a checkpoint, or is in the one that is read.
    """
    check_writable(out, kind="folder")
    if out.exists() and not is_checkpoint(out) and any(out.iterdir()):
        raise UserError(f"--out {out} exists and is not a checkpoint\nfix: give a new folder")
    if out.resolve().is_relative_to(Path(checkpoint).resolve()):
        raise UserError(f"--out {out} is the checkpoint {checkpoint} or in it\nfix: give a new folder beside it")


def read_texts(
    data: str, columns: Sequence[str], limit: int | None, *, options: tuple[str, str] = ("--data", "--columns")
) -> list[str]:
    """The texts of some columns, row by row; a repeated text counts as often as it occurs.

    Args:
        data: A file, `asset:NAME` or Hub id, as in recipes.
        columns: The columns of a table to take texts from.
        limit: Number of rows to read. None: all.
        options: The options that gave the first two, for messages.

    Raises:
        UserError: The data cannot be read, or have no text.
    """
    if limit is not None and limit < 1:
        raise UserError(f"--limit is {limit}\nfix: give an integer >= 1, or omit it for all rows")
    rows = islice(read(data, [Column(options[1], column) for column in columns]), limit)
    texts = [cell.strip() for row in rows for cell in row.cells if cell and cell.strip()]
    if not texts:
        raise UserError(f"{options[0]} {data} has no text\nfix: give a file with sentences")
    return texts
