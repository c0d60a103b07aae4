"""Rows in memory: lists, data frames, tables. They are checked like the rows of a file, and can be saved as one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np

from cse.data import sources
from cse.data.sources import Column, Row
from cse.errors import UserError
from cse.files import atomic_file

TAKES = "a list of strings, tuples or dicts, a pandas or polars DataFrame, a datasets.Dataset, or a path"


def read(source: str | Path | Sized, columns: Sequence[Column], split: str = "train") -> Iterator[Row]:
    """The rows of a path as `cse.data.sources.read` gives them, or those of an object in memory.

    A string is a row of one cell, and a tuple has the cells of the columns in the order in which they are asked for. In
    a dict, a data frame and a table the columns have names.

    Raises:
        UserError: The source cannot be read, is not a collection of rows, or lacks a column.
    """
    if isinstance(source, str | Path):
        return sources.read(str(source), columns, split)
    return _rows(source, columns)


def label(source: str | Path | Sized) -> str:
    """The name of a source in messages: the path, or a text such as `list in memory`."""
    return str(source) if isinstance(source, str | Path) else f"{type(source).__name__} in memory"


def save(source: Sized, columns: Sequence[Column], target: Path) -> None:
    """Write columns as a parquet file; reading the file gives the same cells.

    Raises:
        UserError: Same as for `read`.
    """
    import pyarrow  # type: ignore[import-untyped, unused-ignore]
    from pyarrow.parquet import write_table  # type: ignore[import-untyped, unused-ignore]

    rows = [row.cells for row in _rows(source, columns)]
    cells = {str(column.name): [row[i] for row in rows] for i, column in enumerate(columns)}
    with atomic_file(target) as scratch:
        write_table(pyarrow.table(cells, schema=pyarrow.schema([(name, pyarrow.string()) for name in cells])), scratch)


def _rows(source: object, columns: Sequence[Column]) -> Iterator[Row]:
    what = f"the {label(source)}" if isinstance(source, Sized) else "data"
    names, records = _table(source)
    if names is not None:
        for column in columns:
            sources.require_column(column, names, what)
    for number, record in enumerate(records, 1):
        place = f"row {number}"
        if isinstance(record, Mapping):
            named = {str(key): value for key, value in record.items()}
            if names is None and number == 1:  # in a list of dicts, the first one defines the columns
                for column in columns:
                    sources.require_column(column, list(named), what)
            cells = [named.get(str(column.name)) for column in columns]
        else:
            cells = _cells(record, columns, place)
        yield Row(tuple(sources.cell(_plain(v), c, place) for v, c in zip(cells, columns, strict=True)), place)


def _plain(value: Any) -> Any:
    """A value of numpy as one of Python; None for NaN, which marks missing cells in data frames."""
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


def _table(source: Any) -> tuple[list[str] | None, Iterable[Any]]:
    """The names of the columns (None for rows without a header), and the rows.

    Tables are recognized by their methods, since none of their libraries needs to be installed.
    """
    if hasattr(source, "notna") and hasattr(source, "columns"):  # pandas: a missing cell is NaN, NaT or NA
        whole = source.astype(object).where(source.notna(), None)
        return [str(name) for name in source.columns], whole.to_dict("records")
    if hasattr(source, "iter_rows") and hasattr(source, "columns"):  # polars
        return list(source.columns), source.iter_rows(named=True)
    if hasattr(source, "to_pylist") and hasattr(source, "column_names"):  # pyarrow
        return list(source.column_names), source.to_pylist()
    if hasattr(source, "column_names") and hasattr(source, "__len__") and not isinstance(source, Mapping):
        return list(source.column_names), source  # datasets.Dataset
    if hasattr(source, "tolist") or hasattr(source, "to_list"):  # a column of a frame, an array
        return None, (source.tolist if hasattr(source, "tolist") else source.to_list)()
    if isinstance(source, Sequence):
        return None, source
    fix = f"give {TAKES}"
    if isinstance(source, Mapping):
        fix = 'give a list of rows, or one split of a datasets.DatasetDict: data["train"]'
    elif isinstance(source, Iterable):
        fix = "give list(data): training reads the rows more than once, in the same order"
    raise UserError(f"data is a {type(source).__name__}\nfix: {fix}")
