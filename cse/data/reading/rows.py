"""Rows: which columns are asked for, what a cell has to be, and what a source of rows is."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from cse.errors import UserError

Lists = Literal["", "positives", "negatives", "numbers", "json"]
NUL = "\0"


@dataclass(frozen=True, slots=True)
class Column:
    """A column to read, and the option that asks for it.

    Attributes:
        field: The option, such as `data.columns`.
        name: The name of the column, or its number, from 0, in a csv or tsv file without a header. `translation.en` is
            the entry `en` of the mappings in the column `translation`.
        lists: What a list in a cell holds, if lists are allowed: positives, each of which gives a row, hard negatives,
            numbers, which become one text, or anything, which becomes its JSON.
    """

    field: str
    name: str | int
    lists: Lists = ""


@dataclass(frozen=True, slots=True)
class Row:
    """The cells of the columns to read; None for a missing one.

    Attributes:
        place: file:line.
        skip: The reason why the row is left out, as it is counted; empty for other rows.
        dropped: Number of empty texts that were left out of lists.
    """

    cells: tuple[str | None, ...]
    place: str
    skip: str = ""
    dropped: int = 0


class Reader(ABC):
    """Rows that can be read any number of times; `what` names them in messages."""

    what: str

    @abstractmethod
    def names(self) -> list[str] | None:
        """The names of all columns; None for rows without names."""

    @abstractmethod
    def key(self) -> str | None:
        """A text that differs if the content does; None if that is unknown before all rows are read."""

    @abstractmethod
    def read(self, columns: Sequence[Column]) -> Iterator[Row]:
        """The rows, one by one; a UserError if the source cannot be read, or lacks a column."""


class RowMaker:
    """Makes rows of the values of records, one by one: a row, or a row for each positive of a list."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = columns
        self._listed: dict[int, bool] = {}  # whether a column that may have lists has them
        self._as_text = any(column.lists in {"numbers", "json"} for column in columns)

    def __call__(self, values: Sequence[Any], place: str) -> Iterator[Row]:
        """The rows of a record."""
        if self._as_text:
            values = [as_text(value, column, place) for value, column in zip(values, self._columns, strict=True)]
        if not any(isinstance(v, list | Mapping) for v in values) and True not in self._listed.values():
            for i, column in enumerate(self._columns):
                if column.lists and values[i] is not None:
                    self._listed[i] = False
            yield Row(tuple([cell(v, c, place) for v, c in zip(values, self._columns, strict=True)]), place)
            return
        parts: list[list[str | None]] = []
        expanded, dropped = None, 0
        for i, (value, column) in enumerate(zip(values, self._columns, strict=True)):
            if not column.lists or not self._is_list(i, value, place):
                parts.append([cell(value, column, place)])
                continue
            items = [passage(item, column, place) for item in value or ()]
            texts: list[str | None] = [item for item in items if item and item.strip()]
            dropped += len(items) - len(texts)
            expanded = i if column.lists == "positives" else expanded
            parts.append(texts)
        if expanded is None:
            yield Row(tuple(chain.from_iterable(parts)), place, dropped=dropped)
        elif not parts[expanded]:
            yield Row((), place, skip="no_positive")
        for chosen in parts[expanded] if expanded is not None else ():
            cells = chain.from_iterable([chosen] if i == expanded else part for i, part in enumerate(parts))
            yield Row(tuple(cells), place, dropped=dropped)
            dropped = 0

    def _is_list(self, i: int, value: Any, place: str) -> bool:
        """Tell whether a value is a list, as the earlier ones of its column are; a missing one is like them."""
        if value is None:
            return self._listed.get(i, False)
        listed = isinstance(value, list)
        if listed and not self._listed.setdefault(i, True):
            return False  # which is then an error: a list instead of a text
        if not listed and self._listed.get(i):
            column = self._columns[i]
            raise UserError(
                f"{column.field}: {place}, column {column.name!r} has a {type(value).__name__} instead of a list\n"
                "fix: write lists in all rows, or texts in all rows"
            )
        if not listed:
            self._listed[i] = False
        return listed


def as_text(value: Any, column: Column, place: str) -> Any:
    """Make one text of a list of numbers, or of anything as JSON, if the column asks for it."""
    if not isinstance(value, list) or column.lists not in {"numbers", "json"}:
        return value
    if column.lists == "json":
        return json.dumps(value, default=lambda array: array.tolist())
    try:
        return " ".join(map(repr, map(float, value)))
    except (TypeError, ValueError):
        kind = next((type(v).__name__ for v in value if not isinstance(v, int | float)), "text")
        raise UserError(
            f"{column.field}: {place}, column {column.name!r} has a list with a {kind} instead of a number\n"
            "fix: name a column of numbers, or of lists of numbers"
        ) from None


def passage(item: Any, column: Column, place: str) -> str | None:
    """Read an item of a list: a text, or a document with a title (Tevatron, BEIR)."""
    if isinstance(item, Mapping):
        if "text" not in item:
            raise UserError(
                f"{column.field}: {place}, column {column.name!r} has a document without a text: it has "
                f"{', '.join(map(repr, list(item)[:8])) or 'nothing'}\nfix: give each document a `text`"
            )
        return document(item.get("title"), item["text"], column, place)
    return cell(item, column, place)


def document(title: Any, text: Any, column: Column, place: str) -> str:
    """Title and text of a document as one text, as BEIR and Tevatron join them."""
    return " ".join(c.strip() for c in (cell(title, column, place), cell(text, column, place)) if c and c.strip())


def cell(value: Any, column: Column, place: str) -> str | None:
    """Read a value of a row as text; None if it is missing."""
    if value is None or isinstance(value, str):
        if value and NUL in value:
            raise UserError(
                f"data.path: {place}, column {column.name!r} contains the character NUL\n"
                "fix: remove it; if the file is UTF-16, convert it: iconv -f UTF-16 -t UTF-8 FILE > utf8-FILE"
            )
        if value and not value.isascii() and re.search("[\ud800-\udfff]", value):
            raise UserError(
                f"data.path: {place}, column {column.name!r} contains half a character (a lone surrogate)\n"
                "fix: remove it, or write the file as UTF-8 again"
            )
        return value
    if isinstance(value, int | float) and (type(value) is not bool or "label" in column.field):
        return None if isinstance(value, float) and math.isnan(value) else repr(value)
    raise UserError(
        f"{column.field}: {place}, column {column.name!r} has a {type(value).__name__} instead of a text\n"
        "fix: name a column of texts"
    )


def entry(record: Mapping[str, Any], column: Column) -> Any:
    """The value of a column in a record, or that of an entry of a mapping in it."""
    name = str(column.name)
    if name in record or "." not in name:
        return record.get(name)
    outer, inner = name.split(".", 1)
    value = record.get(outer)
    return value.get(inner) if isinstance(value, Mapping) else value


def outer_names(columns: Sequence[Column], names: Sequence[str]) -> list[str]:
    """The columns of a table that have to be read, without repeats."""
    wanted = [str(c.name) if c.name in names else str(c.name).split(".", 1)[0] for c in columns]
    return list(dict.fromkeys(wanted))


def require(columns: Sequence[Column], names: Sequence[str], where: Path | str) -> None:
    """Raise unless a table has all columns; see `require_column`."""
    for column in columns:
        require_column(column, names, where)


def require_column(column: Column, names: Sequence[str], where: Path | str) -> int:
    """Find the place of a column among the names of a table's columns; raise if there is none, or several."""
    name = column.name
    if name not in names and isinstance(name, str) and "." in name and name.split(".", 1)[0] in names:
        name = name.split(".", 1)[0]
    if name not in names:
        shown = ", ".join(map(repr, names[:12])) if names else "none, since it is empty"
        raise UserError(
            f"{column.field}: {where} has no column {column.name!r}; its columns are {shown}"[:600]
            + f"\nfix: {_other_name(str(name), names)}"
        )
    if list(names).count(str(name)) > 1:
        raise UserError(
            f"{column.field}: {where} has {list(names).count(str(name))} columns {column.name!r}\n"
            "fix: give each column a name of its own"
        )
    return list(names).index(str(name))


def _other_name(name: str, names: Sequence[str]) -> str:
    """Advise about a name that is not among those of the columns."""
    alike = next((n for n in names if unicodedata.normalize("NFC", n) == unicodedata.normalize("NFC", name)), None)
    if alike is not None:
        return f"write the name with the characters of the file, which only look the same: $'{ascii(alike)[1:-1]}'"
    separator = next((mark for mark in (";", "\t", "|") if len(names) == 1 and mark in names[0]), None)
    if separator is not None:
        return f"separate the cells by commas, or by tabs in a .tsv file; this file seems to have {separator!r}"
    return "give one of these names, or its number from 0 for a csv or tsv file without a header line"


def number_in(text: str | None) -> float:
    """The number that a cell holds, as data files write it; NaN if it holds none. Python's `1_0` is none."""
    try:
        return float(text or "") if "_" not in (text or "") else math.nan
    except ValueError:
        return math.nan


def number_fix(text: str | None) -> str:
    """Advise about a cell that holds no number, or one out of range."""
    found = re.fullmatch(r"\s*([+-]?\d+)(?:[.,](\d+))?\s*(%?)\s*", text or "")
    if found is None or math.isfinite(number_in(text)):
        return "correct or remove that row"
    point = f"{found[1]}.{found[2] or 0}"
    return f"write {float(point) / 100:g} for {text}" if found[3] else f"write a decimal point: {point}"
