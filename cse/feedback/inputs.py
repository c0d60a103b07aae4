"""The rows to ask about, with their numbers. Blank and repeated rows are set aside and reported."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cse.data.reading.rows import Column
from cse.data.reading.sources import read
from cse.errors import UserError

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Input:
    """A row: its number, counted from 1, its place in the file, its texts, and its label if rows have one."""

    row: int
    place: str
    texts: tuple[str, ...]
    label: str | None = None

    @property
    def kept(self) -> dict[str, str]:
        """Pick what a record that is made of the row takes over from it."""
        return {} if self.label is None else {"label": self.label}


@dataclass(slots=True)
class Inputs:
    """The rows to ask about, the rows that were set aside, and a hash of the texts to ask about."""

    rows: list[Input] = field(default_factory=list)
    rejects: list[Record] = field(default_factory=list)

    @property
    def sha256(self) -> str:
        """The hash of the texts, row by row."""
        return hashlib.sha256(json.dumps([row.texts for row in self.rows]).encode()).hexdigest()


def load(
    path: str, columns: Sequence[str], *, limit: int | None, split: str = "train", label_column: str | None = None
) -> Inputs:
    """Read a file, an asset or a Hub data set.

    Args:
        path: A source, in the same form as in the data classes of recipes.
        columns: Names, or numbers from 0 in a csv or tsv file without a header.
        limit: Number of rows to read. None: all.
        split: Split of a data set on the Hub.
        label_column: The column of labels, a name or a number. None: rows have no labels.

    Raises:
        UserError: The source cannot be read, lacks a column, or has no usable row.
    """
    if limit is not None and limit < 1:
        raise UserError(f"--limit is {limit}\nfix: give 1 or more")
    asked = [Column("--columns", _name(column)) for column in columns]
    asked += [] if label_column is None else [Column("--label-column", _name(label_column))]
    found, seen = Inputs(), dict[tuple[str, ...], int]()
    for number, row in enumerate(read(path, asked, split), 1):
        if limit is not None and number > limit:
            break
        cells = tuple((cell or "").strip() for cell in row.cells)
        texts, label = cells[: len(columns)], None if label_column is None else cells[-1]
        if not all(cells):
            what = "the label" if all(texts) else "a text"
            found.rejects.append(set_aside(number, row.place, "blank", f"{what} is missing", texts))
        elif texts in seen:
            found.rejects.append(set_aside(number, row.place, "duplicate", f"the same as row {seen[texts]}", texts))
        else:
            seen[texts] = number
            found.rows.append(Input(number, row.place, texts, label))
    if not found.rows:
        raise UserError(
            f"--data {path} has no usable row ({len(found.rejects)} are blank or repeated)\n"
            "fix: give a file with texts in these columns"
        )
    return found


def _name(column: str) -> str | int:
    return int(column) if column.isdecimal() else column


def set_aside(row: int, place: str, reason: str, detail: str, texts: Sequence[str], **more: Any) -> Record:
    """A line of the rejects file."""
    return {"row": row, "place": place, "reason": reason, "detail": detail, "texts": list(texts), **more}
