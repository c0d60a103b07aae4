"""Reads the rows of one file. Errors name the file and the line."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cse.data.rows import Column, Row, RowMaker, entry, outer_names, require, require_column
from cse.errors import UserError

KINDS = (".txt", ".csv", ".tsv", ".jsonl", ".parquet")
PARALLEL = "translation"  # a column of mappings from languages to texts
BATCH = 8_192  # rows of a parquet file that are decoded at once
csv.field_size_limit(1 << 28)


def kind(file: Path) -> str:
    """The suffix that says how to read a file, without .gz."""
    suffixes = [s.lower() for s in file.suffixes]
    return suffixes[-2] if len(suffixes) > 1 and suffixes[-1] == ".gz" else (suffixes or [""])[-1]


def read_file(file: Path, columns: Sequence[Column]) -> Iterator[Row]:
    """The rows of a file of one of `KINDS`.

    Raises:
        UserError: The file cannot be read, or lacks a column.
    """
    return _READERS[kind(file)](file, columns)


def names_of(file: Path) -> list[str]:
    """The names of the columns of a file, and of entries of `translation`; none for a .txt file.

    For a csv or tsv file, these are the cells of the first line, even if it is not a header.

    Raises:
        UserError: The file cannot be read.
    """
    suffix = kind(file)
    if suffix == ".parquet":
        schema = _parquet(file).schema_arrow
        inner = [field.name for field in schema.field(PARALLEL).type] if PARALLEL in schema.names else []
        return [*schema.names, *(f"{PARALLEL}.{name}" for name in inner)]
    if suffix == ".txt":
        return []
    number, first = next(((n, line) for n, line in lines(file) if line.strip()), (1, ""))
    if suffix == ".jsonl":
        return with_entries(json_record(first, f"{file}:{number}")) if first else []
    try:
        return next(csv.reader([first], delimiter="\t" if suffix == ".tsv" else ","), [])
    except csv.Error as error:
        fix = "correct that row, or quote its separators in a .csv file"
        raise UserError(f"{file}:{number} cannot be read: {error}\nfix: {fix}") from error


def with_entries(record: Mapping[str, Any]) -> list[str]:
    """The names in a record, and those of the entries of `translation`: `translation.en` (parallel texts)."""
    inner = record.get(PARALLEL)
    return [*record, *(f"{PARALLEL}.{name}" for name in (inner if isinstance(inner, Mapping) else ()))]


# -- Text files: numbered lines, decoded one at a time so that an error has a line number ------------------------------


def lines(file: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file with their numbers.

    Raises:
        UserError: The file cannot be read, or is not UTF-8.
    """
    number, raw = 0, b""
    try:
        with gzip.open(file, "rb") if file.suffix.lower() == ".gz" else file.open("rb") as stream:
            for number, raw in enumerate(stream, 1):
                if number == 1 and raw[:2] in {b"\xff\xfe", b"\xfe\xff"}:
                    raise UserError(
                        f"data.path: {file} is UTF-16 (it begins with the bytes {raw[:2].hex(' ')})\n"
                        f"fix: iconv -f UTF-16 -t UTF-8 {file.name} > utf8-{file.name}"
                    )
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        encoding = "UTF-16" if b"\0" in raw else "LATIN1"
        raise UserError(
            f"data.path: {file}:{number} is not UTF-8 (byte 0x{error.object[error.start]:02x})\n"
            f"fix: iconv -f {encoding} -t UTF-8 {file.name} > utf8-{file.name}"
        ) from error
    except (EOFError, zlib.error, OSError) as error:
        raise UserError(
            f"data.path is {file}, which cannot be read: {error}\nfix: give a complete, readable file"
        ) from error


def _read_txt(file: Path, columns: Sequence[Column]) -> Iterator[Row]:
    if len(columns) > 1:
        fields = list(dict.fromkeys(column.field for column in columns))
        asked = f"{' and '.join(fields)} {'names' if len(fields) == 1 else 'name'} {len(columns)}"
        raise UserError(
            f"data.path is {file}: a .txt file has one text per line, but {asked}\n"
            "fix: give a .tsv, .csv, .jsonl or .parquet file with these columns, or use cse.data.Texts"
        )
    rows = RowMaker(columns)
    return (row for number, line in lines(file) for row in rows((line,), f"{file}:{number}"))


def _read_tsv(file: Path, columns: Sequence[Column]) -> Iterator[Row]:
    """Rows of a tsv file, in which a quotation mark is an ordinary character."""
    return _table(((number, line.split("\t")) for number, line in lines(file)), file, columns)


def _read_csv(file: Path, columns: Sequence[Column]) -> Iterator[Row]:
    return _table(_csv_rows(file), file, columns)


def _csv_rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader((line + "\n" for _, line in lines(file)), strict=True)
    try:
        for cells in reader:
            yield reader.line_num, cells
    except csv.Error as error:
        raise UserError(
            f"data.path: {file}:{reader.line_num} is not csv: {error}\nfix: correct the quotes of that row"
        ) from error


def _table(numbered: Iterator[tuple[int, list[str]]], file: Path, columns: Sequence[Column]) -> Iterator[Row]:
    """Rows of a table. The first line is a header unless all columns are given by number."""
    if all(isinstance(c.name, int) for c in columns):
        at, width = [int(c.name) for c in columns], 0
    else:
        header = next(numbered, (0, []))[1]
        at, width = [require_column(c, header, file) for c in columns], len(header)
    rows = RowMaker(columns)
    for number, cells in numbered:
        place = f"{file}:{number}"
        if not any(cells):
            yield Row((None,) * len(at), place)
            continue
        if (width and len(cells) != width) or len(cells) <= max(at):
            count = f"{len(cells)} {'cell' if len(cells) == 1 else 'cells'}"
            raise UserError(
                f"data.path: {place} has {count}; expected {width or max(at) + 1}\n"
                "fix: correct that row, or quote its separators in a .csv file"
            )
        width = width or len(cells)
        yield from rows([cells[i] for i in at], place)


def _read_jsonl(file: Path, columns: Sequence[Column]) -> Iterator[Row]:
    checked, rows = False, RowMaker(columns)
    for number, line in lines(file):
        place = f"{file}:{number}"
        if not line.strip():
            yield Row((None,) * len(columns), place)
            continue
        record = json_record(line, place)
        if not checked:
            require(columns, list(record), file)
            checked = True
        yield from rows([entry(record, c) for c in columns], place)


def json_record(line: str, place: str) -> dict[str, Any]:
    """The object in a line of a .jsonl file.

    Raises:
        UserError: The line is not a JSON object.
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise UserError(f"data.path: {place} is not JSON: {why}\nfix: correct that line") from None
    if not isinstance(record, dict):
        raise UserError(f"data.path: {place} is not a JSON object\nfix: write one object per line, such as {{...}}")
    return record


# -- Tables with typed columns ----------------------------------------------------------------------------------------


def _read_parquet(file: Path, columns: Sequence[Column]) -> Iterator[Row]:
    table = _parquet(file)
    names = table.schema_arrow.names
    require(columns, names, file)
    return read_records(_decoded(table, file, outer_names(columns, names)), columns, str(file))


def _decoded(table: Any, file: Path, names: list[str]) -> Iterator[dict[str, Any]]:
    import pyarrow

    try:
        for batch in table.iter_batches(batch_size=BATCH, columns=names, use_threads=False):
            yield from batch.to_pylist()
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise UserError(
            f"data.path is {file}, which cannot be read: {error}\nfix: give a complete .parquet file"
        ) from error


def _parquet(file: Path) -> Any:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        if file.suffix.lower() == ".gz":
            return ParquetFile(io.BytesIO(gzip.decompress(file.read_bytes())))
        return ParquetFile(file, memory_map=True)
    except (pyarrow.ArrowInvalid, OSError, EOFError, zlib.error) as error:
        raise UserError(
            f"data.path is {file}, which is not a parquet file: {error}\nfix: give a complete .parquet file"
        ) from error


def read_records(records: Iterable[Any], columns: Sequence[Column], where: str) -> Iterator[Row]:
    """The rows of records with named values, which are counted from 1."""
    rows = RowMaker(columns)
    for number, record in enumerate(records, 1):
        yield from rows([entry(record, c) for c in columns], f"{where} row {number}")


_READERS: dict[str, Callable[[Path, Sequence[Column]], Iterator[Row]]] = {
    ".txt": _read_txt,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
