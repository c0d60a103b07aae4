"""Rows in memory: lists, data frames, tables. They are checked like the rows of a file, and can be saved as one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from cse.data.reading.files import PARALLEL, with_entries
from cse.data.reading.rows import Column, Reader, Row, RowMaker, as_text, cell, entry, passage, require
from cse.data.reading.sources import open_path
from cse.errors import UserError
from cse.files import atomic_file

BLOCK = 16_384  # rows that are converted at once
TAKES = "a list of strings, tuples or dicts, a pandas or polars DataFrame, a datasets.Dataset, or a path"


def open_source(source: str | Path | Sized, split: str = "train") -> Reader:
    """Open the source of a path or of an object in memory."""
    return open_path(str(source), split) if isinstance(source, str | Path) else MemoryReader(source)


def label(source: str | Path | Sized) -> str:
    """The name of a source in messages: the path, or a text such as `list in memory`."""
    return str(source) if isinstance(source, str | Path) else f"{type(source).__name__} in memory"


def save(source: Sized, columns: Sequence[Column], target: Path) -> None:
    """Write columns as a parquet file; reading the file gives the same rows."""
    import pyarrow  # type: ignore[import-untyped, unused-ignore]
    from pyarrow.parquet import ParquetWriter  # type: ignore[import-untyped, unused-ignore]

    names = list(dict.fromkeys(str(column.name) for column in columns))
    plain = [Column(column.field, name, column.lists) for column, name in zip(columns, names, strict=True)]
    values = (values for values, _ in MemoryReader(source).values(columns))
    with atomic_file(target) as scratch:
        writer = None
        while block := list(islice(values, BLOCK)):
            cells = {name: [_kept(row[i], plain[i]) for row in block] for i, name in enumerate(names)}
            if writer is None:
                listed = {name: any(isinstance(v, list) for v in column) for name, column in cells.items()}
                text = pyarrow.string()
                schema = pyarrow.schema([(n, pyarrow.list_(text) if listed[n] else text) for n in names])
                writer = ParquetWriter(scratch, schema)
            writer.write_table(pyarrow.table(cells, schema=schema))
        if writer is not None:
            writer.close()


class MemoryReader(Reader):
    """An object that holds rows: a list, an array, a data frame, a table.

    A string is a row of one cell, and a tuple has the cells of the columns in the order in which they are asked for. In
    a dict, a data frame and a table the columns have names.
    """

    def __init__(self, source: Sized) -> None:
        self.what = f"the {label(source)}" if isinstance(source, Sized) else "data"
        self._source = source
        self._names, self._records = _table(source)

    def names(self) -> list[str] | None:
        """The names of the columns of a table, or of the first row if it is a dict."""
        if self._names is None:
            first = next(iter(self._records()), None)
            return [str(key) for key in with_entries(first)] if isinstance(first, Mapping) else None
        first = next(iter(self._records()), {}) if PARALLEL in self._names else {}
        return [*self._names, *(name for name in with_entries(first) if name not in first)]

    def width(self) -> int:
        """The number of cells of the first row; 1 for a text."""
        first = next(iter(self._records()), "")
        return len(first) if isinstance(first, list | tuple) else 1

    def key(self) -> str | None:
        """The fingerprint of a data set of the `datasets` library, which is on disk; None for others."""
        found = getattr(self._source, "_fingerprint", None)
        return found if isinstance(found, str) else None

    def read(self, columns: Sequence[Column]) -> Iterator[Row]:
        """The rows, one by one."""
        rows = RowMaker(columns)
        return (row for values, place in self.values(columns) for row in rows(values, place))

    def values(self, columns: Sequence[Column]) -> Iterator[tuple[list[Any], str]]:
        """The values of columns, with the place of each row."""
        if self._names is not None:
            require(columns, self._names, self.what)
        for number, record in enumerate(self._records(), 1):
            place = f"row {number}"
            if isinstance(record, Mapping):
                named = {str(key): value for key, value in record.items()}
                if self._names is None and number == 1:  # in a list of dicts, the first one defines the columns
                    require(columns, list(named), self.what)
                cells = [entry(named, column) for column in columns]
            else:
                cells = _cells(record, columns, place)
            yield [_plain(value) for value in cells], place


def _kept(value: Any, column: Column) -> Any:
    """A value as the parquet file holds it: a text, which a list may be read as, or a list of texts."""
    value = as_text(value, column, "")
    return [passage(item, column, "") for item in value] if isinstance(value, list) else cell(value, column, "")


def _plain(value: Any) -> Any:
    """A value of numpy as one of Python; None for NaN, which marks missing cells in data frames."""
    if isinstance(value, np.ndarray | tuple):  # a list in a cell of a data frame
        return list(value)
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and math.isnan(value) else value


def _cells(record: object, columns: Sequence[Column], place: str) -> list[Any]:
    """The cells of a row without names."""
    if _plain(record) is None:
        return [None] * len(columns)
    cells = [record] if isinstance(record, str) else list(record) if isinstance(record, list | tuple) else None
    wanted = ", ".join(str(column.name) for column in columns)
    if cells is None:
        raise UserError(
            f"data: {place} is {str(record)[:40]!r}, of type {type(record).__name__}\n"
            f"fix: give a {'string' if len(columns) == 1 else f'tuple ({wanted})'}, or a dict with the columns"
        )
    if len(cells) != len(columns):
        size = f"{len(cells)} {'text' if len(cells) == 1 else 'cells'}"
        raise UserError(
            f"data: {place} has {size}; expected {len(columns)}: {wanted}\n"
            "fix: use the data class of such rows (cse.Texts, cse.Pairs, cse.Triplets, cse.ScoredPairs) and a recipe "
            "for it, or give dicts and name the columns"
        )
    return cells


def _table(source: Any) -> tuple[list[str] | None, Callable[[], Iterable[Any]]]:
    """The names of the columns (None for rows without a header), and a function that reads the rows.

    Tables are recognized by their methods, since none of their libraries needs to be installed.
    """
    if hasattr(source, "notna") and hasattr(source, "columns"):
        return [str(name) for name in source.columns], lambda: _pandas(source)
    if hasattr(source, "iter_rows") and hasattr(source, "columns"):  # polars
        return list(source.columns), lambda: source.iter_rows(named=True)
    if hasattr(source, "to_batches") and hasattr(source, "column_names"):  # pyarrow
        batches = partial(source.to_batches, max_chunksize=BLOCK)
        return list(source.column_names), lambda: (row for batch in batches() for row in batch.to_pylist())
    if hasattr(source, "column_names") and hasattr(source, "__len__") and not isinstance(source, Mapping):
        return list(source.column_names), lambda: source  # datasets.Dataset
    if hasattr(source, "tolist") or hasattr(source, "to_list"):  # a column of a frame, an array
        return None, lambda: (source.tolist if hasattr(source, "tolist") else source.to_list)()
    if isinstance(source, Sequence):
        return None, lambda: source
    fix = f"give {TAKES}"
    if isinstance(source, Mapping):
        fix = 'give a list of rows, or one split of a datasets.DatasetDict: data["train"]'
    elif isinstance(source, Iterable):
        fix = "give list(data): training reads the rows more than once, in the same order"
    raise UserError(f"data is a {type(source).__name__}\nfix: {fix}")


def _pandas(frame: Any) -> Iterator[dict[str, Any]]:
    """The rows of a data frame; a missing cell, which is NaN, NaT or NA, is None."""
    for start in range(0, len(frame), BLOCK):
        part = frame.iloc[start : start + BLOCK]
        yield from part.astype(object).where(part.notna(), None).to_dict("records")
