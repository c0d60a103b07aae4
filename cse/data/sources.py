"""Reads rows of text from a file, an asset or the Hub. Errors name the file and the line."""

from __future__ import annotations

import csv
import difflib
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from cse.assets.hub import explain, without_retries
from cse.assets.hub import file as fetch
from cse.errors import UserError

KINDS = (".txt", ".csv", ".tsv", ".jsonl", ".parquet")
STREAM = "stream:"
FIX = "check the name and the network (HF_HUB_OFFLINE, HF_ENDPOINT), or give a file: --data.path=my.txt"
HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?::(?P<file>[^:]+))?")
csv.field_size_limit(1 << 28)


@dataclass(frozen=True, slots=True)
class Column:
    """A column to read, and the option that asks for it.

    Attributes:
        field: The option, such as `data.columns`.
        name: The name of the column, or its number, from 0, in a csv or tsv file without a header.
    """

    field: str
    name: str | int


@dataclass(frozen=True, slots=True)
class Row:
    """The cells of the columns to read, in their order; None for a missing cell. `place` is file:line."""

    cells: tuple[str | None, ...]
    place: str


def read(path: str, columns: Sequence[Column], split: str = "train") -> Iterator[Row]:
    """Read the rows of `path` one by one.

    Args:
        path: A .txt, .csv, .tsv, .jsonl or .parquet file, each also as .gz, `asset:NAME`, or a Hub id: `org/name`,
            `org/name:file`, or `stream:org/name`, whose rows are read as they arrive, without a copy on disk.
        columns: The columns to read. A .txt file has one column, whatever its name.
        split: Split of a data set on the Hub.

    Raises:
        UserError: The source does not exist, cannot be read, or lacks a column.
    """
    file = None if path.startswith(STREAM) else _locate(path)
    return _read_hub(path, split, columns) if file is None else _read_file(file, path, columns)


def column_names(path: str, split: str = "train") -> list[str]:
    """The names of all columns of a source; none for a .txt file.

    For a csv or tsv file, these are the cells of the first line, even if it is not a header.

    Raises:
        UserError: Same as `read`.
    """
    file = None if path.startswith(STREAM) else _locate(path)
    if file is None:
        return _open_hub(path, split)[1]
    _require_file(file, path)
    kind = _kind(file)
    if kind == ".parquet":
        return list(_parquet(file).schema_arrow.names)
    first = next((line for _, line in _lines(file) if line.strip()), "")
    if kind == ".jsonl":
        return list(json.loads(first or "{}"))
    return next(csv.reader([first], delimiter="\t" if kind == ".tsv" else ","), []) if kind != ".txt" else []


def _locate(path: str) -> Path | None:
    """The file that a path names, downloaded if necessary; None for a data set on the Hub."""
    if path.startswith("asset:"):
        from cse.assets import resolve

        return resolve(path)
    local = Path(path).expanduser()
    hub = HUB_ID.fullmatch(path)
    if local.exists() or hub is None or (hub["file"] is None and _kind(local) in KINDS):
        return local
    repo, file = hub["repo"], hub["file"]
    return fetch(repo, file, kind="dataset", what=f"data.path {path}", fix=FIX) if file else None


def _require_file(file: Path, path: str) -> None:
    if file.is_dir():
        raise UserError(
            f"data.path is {path}, which is a folder\n"
            f"fix: give a file in it: {', '.join(_inside(file)[:12]) or 'it is empty'}"
        )
    if not file.exists():
        near = difflib.get_close_matches(file.name, _inside(file.parent), n=1)
        hint = f"did you mean {file.parent / near[0]}? " if near else ""
        raise UserError(
            f"data.path is {path}: there is no such file\nfix: {hint}give a {', '.join(KINDS)} file, asset:NAME, or a "
            "Hub id (org/name, org/name:file or stream:org/name)"
        )


def _read_file(file: Path, path: str, columns: Sequence[Column]) -> Iterator[Row]:
    _require_file(file, path)
    reader = _READERS.get(_kind(file))
    if reader is None:
        raise UserError(
            f"data.path is {path}, whose format is unknown\nfix: give a file that ends in {', '.join(KINDS)}"
        )
    return reader(file, columns)


def _kind(file: Path) -> str:
    suffixes = [s.lower() for s in file.suffixes]
    return suffixes[-2] if len(suffixes) > 1 and suffixes[-1] == ".gz" else (suffixes or [""])[-1]


def _inside(folder: Path) -> list[str]:
    """Some names in a folder, for a hint."""
    try:
        return sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))[:1000]
    except OSError:
        return []


# -- Text files: numbered lines, decoded one at a time so that an error has a line number ------------------------------


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    number = 0
    try:
        with gzip.open(file, "rb") if file.suffix.lower() == ".gz" else file.open("rb") as stream:
            for number, raw in enumerate(stream, 1):
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UserError(
            f"data.path: {file}:{number} is not UTF-8 (byte 0x{error.object[error.start]:02x})\n"
            f"fix: iconv -f LATIN1 -t UTF-8 {file.name} > utf8-{file.name}"
        ) from error
    except (EOFError, zlib.error, OSError) as error:
        raise UserError(
            f"data.path is {file}, which cannot be read: {error}\nfix: give a complete, readable file"
        ) from error


def _read_txt(file: Path, columns: Sequence[Column]) -> Iterator[Row]:
    if len(columns) > 1:
        raise UserError(
            f"data.path is {file}: a .txt file has one text per line, but {columns[0].field} names {len(columns)}\n"
            "fix: give a .tsv, .csv, .jsonl or .parquet file with these columns, or use cse.data.Texts"
        )
    return (Row((line,), f"{file}:{number}") for number, line in _lines(file))


def _read_tsv(file: Path, columns: Sequence[Column]) -> Iterator[Row]:
    """Rows of a tsv file, in which a quotation mark is an ordinary character."""
    return _table(((number, line.split("\t")) for number, line in _lines(file)), file, columns)


def _read_csv(file: Path, columns: Sequence[Column]) -> Iterator[Row]:
    return _table(_csv_rows(file), file, columns)


def _csv_rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader((line + "\n" for _, line in _lines(file)), strict=True)
    try:
        for cells in reader:
            yield reader.line_num, cells
    except csv.Error as error:
        raise UserError(
            f"data.path: {file}:{reader.line_num} is not csv: {error}\nfix: correct the quotes of that row"
        ) from error


def _table(lines: Iterator[tuple[int, list[str]]], file: Path, columns: Sequence[Column]) -> Iterator[Row]:
    """Rows of a table. The first line is a header unless all columns are given by number."""
    if all(isinstance(c.name, int) for c in columns):
        at, width = [int(c.name) for c in columns], 0
    else:
        header = next(lines, (0, []))[1]
        at, width = [require_column(c, header, file) for c in columns], len(header)
    for number, cells in lines:
        place = f"{file}:{number}"
        if not any(cells):
            yield Row((None,) * len(at), place)
            continue
        if (width and len(cells) != width) or len(cells) <= max(at):
            raise UserError(
                f"data.path: {place} has {len(cells)} cells; expected {width or max(at) + 1}\n"
                "fix: correct that row, or quote its separators in a .csv file"
            )
        width = width or len(cells)
        yield Row(tuple(cells[i] for i in at), place)


def _read_jsonl(file: Path, columns: Sequence[Column]) -> Iterator[Row]:
    checked = False
    for number, line in _lines(file):
        place = f"{file}:{number}"
        if not line.strip():
            yield Row((None,) * len(columns), place)
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UserError(f"data.path: {place} is not JSON: {error}\nfix: correct that line") from error
        if not isinstance(record, dict):
            raise UserError(f"data.path: {place} is not a JSON object\nfix: write one object per line, such as {{...}}")
        if not checked:
            _require(columns, list(record), file)
            checked = True
        yield Row(tuple(cell(record.get(str(c.name)), c, place) for c in columns), place)


# -- Tables with typed columns ----------------------------------------------------------------------------------------


def _read_parquet(file: Path, columns: Sequence[Column]) -> Iterator[Row]:
    table = _parquet(file)
    _require(columns, table.schema_arrow.names, file)
    names = [str(c.name) for c in columns]
    records = (record for batch in table.iter_batches(columns=names) for record in batch.to_pylist())
    return _records(records, columns, str(file))


def _parquet(file: Path) -> Any:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        return ParquetFile(io.BytesIO(gzip.decompress(file.read_bytes())) if file.suffix.lower() == ".gz" else file)
    except (pyarrow.ArrowInvalid, OSError, EOFError, zlib.error) as error:
        raise UserError(
            f"data.path is {file}, which is not a parquet file: {error}\nfix: give a complete .parquet file"
        ) from error


def _read_hub(path: str, split: str, columns: Sequence[Column]) -> Iterator[Row]:
    records, names = _open_hub(path, split)
    _require(columns, names, path)
    if not path.startswith(STREAM):
        records = records.select_columns([str(c.name) for c in columns])
    return _records(records, columns, path)


def _open_hub(path: str, split: str) -> tuple[Any, list[str]]:
    """The records of a data set on the Hub, and the names of its columns: of a stream, those of its first record."""
    from datasets import load_dataset

    streaming = path.startswith(STREAM)
    with _hub_errors(path):
        with without_retries():
            table = load_dataset(path.removeprefix(STREAM), split=split, **({"streaming": True} if streaming else {}))
        if not streaming:
            return table, list(table.column_names)
        rows = iter(table)
        first = list(islice(rows, 1))

    def arriving() -> Iterator[dict[str, Any]]:
        with _hub_errors(path):
            yield from chain(first, rows)

    return arriving(), [name for row in first for name in row]


@contextmanager
def _hub_errors(path: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the Hub, its client and the network raise many kinds of errors
        raise explain(f"data.path {path}", error, fix=FIX) from error


def _records(records: Any, columns: Sequence[Column], where: str) -> Iterator[Row]:
    for number, record in enumerate(records, 1):
        place = f"{where} row {number}"
        yield Row(tuple(cell(record[str(c.name)], c, place) for c in columns), place)


def cell(value: Any, column: Column, place: str) -> str | None:
    """A value of a row as text; None if it is missing.

    Raises:
        UserError: The value is neither a text nor a number, or contains half a character.
    """
    if value is None or isinstance(value, str):
        if value and not value.isascii() and re.search("[\ud800-\udfff]", value):
            raise UserError(
                f"data.path: {place}, column {column.name!r} contains half a character (a lone surrogate)\n"
                "fix: remove it, or write the file as UTF-8 again"
            )
        return value
    if isinstance(value, int | float):
        return repr(value)
    raise UserError(
        f"{column.field}: {place}, column {column.name!r} has a {type(value).__name__} instead of a text\n"
        "fix: name a column of texts"
    )


def _require(columns: Sequence[Column], names: Sequence[str], where: Path | str) -> None:
    for column in columns:
        require_column(column, names, where)


def require_column(column: Column, names: Sequence[str], where: Path | str) -> int:
    """The place of a column among the names of a table's columns.

    Raises:
        UserError: There is no such column.
    """
    if column.name not in names:
        shown = ", ".join(map(repr, names[:12])) if names else "none, since it is empty"
        raise UserError(
            f"{column.field}: {where} has no column {column.name!r}; its columns are {shown}"[:600]
            + "\nfix: give one of these names, or its number from 0 for a csv or tsv file without a header line"
        )
    return list(names).index(str(column.name))


_READERS: dict[str, Callable[[Path, Sequence[Column]], Iterator[Row]]] = {
    ".txt": _read_txt,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
