"""The rows to ask about, with their numbers. Blank and repeated rows are set aside and reported."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cse.data.rows import Column
from cse.data.sources import read
from cse.errors import UserError


@dataclass(frozen=True, slots=True)
class Input:
    """A row: its number, counted from 1, its place in the file, and its texts."""

    row: int
    place: str
    texts: tuple[str, ...]


@dataclass(slots=True)
class Inputs:
    """The rows to ask about, the rows that were set aside, and a hash of the texts to ask about."""

    rows: list[Input] = field(default_factory=list)
    rejects: list[dict[str, Any]] = field(default_factory=list)

    @property
    def sha256(self) -> str:
        """The hash of the texts, row by row."""
        return hashlib.sha256(json.dumps([row.texts for row in self.rows]).encode()).hexdigest()


def load(path: str, columns: Sequence[str], *, limit: int | None, split: str = "train") -> Inputs:
    """Read a file, an asset or a Hub data set.

    Args:
        path: A source, in the same form as in the data classes of recipes.
        columns: Names, or numbers from 0 in a csv or tsv file without a header.
        limit: Number of rows to read. None: all.
        split: Split of a data set on the Hub.

    Raises:
        UserError: The source cannot be read, lacks a column, or has no usable row.
    """
    if limit is not None and limit < 1:
        raise UserError(f"--limit is {limit}\nfix: give 1 or more")
    names: list[str | int] = [int(c) if c.isdecimal() else c for c in columns]
    found, seen = Inputs(), dict[tuple[str, ...], int]()
    for number, row in enumerate(read(path, [Column("--columns", name) for name in names], split), 1):
        if limit is not None and number > limit:
            break
        texts = tuple((cell or "").strip() for cell in row.cells)
        if not all(texts):
            found.rejects.append(set_aside(number, row.place, "blank", "a text is missing", texts))
        elif texts in seen:
            found.rejects.append(set_aside(number, row.place, "duplicate", f"the same as row {seen[texts]}", texts))
        else:
            seen[texts] = number
            found.rows.append(Input(number, row.place, texts))
    if not found.rows:
        raise UserError(
            f"--data {path} has no usable row ({len(found.rejects)} are blank or repeated)\n"
            "fix: give a file with texts in these columns"
        )
    return found


def set_aside(row: int, place: str, reason: str, detail: str, texts: Sequence[str], **more: Any) -> dict[str, Any]:
    """A line of the rejects file."""
    return {"row": row, "place": place, "reason": reason, "detail": detail, "texts": list(texts), **more}
