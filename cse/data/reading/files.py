"""Reads the rows of files: one, or shards of one kind. Errors name the file and the line."""

from __future__ import annotations

import csv
import difflib
import gzip
import io
import json
import math
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from xxhash import xxh3_128

from cse.data.reading.rows import Column, Reader, Row, RowMaker, entry, outer_names, require, require_column
from cse.errors import UserError
from cse.files import require_regular

KINDS = (".txt", ".csv", ".tsv", ".jsonl", ".parquet")
PARALLEL = "translation"  # a column of mappings from languages to texts
BATCH = 8_192  # rows of a parquet file that are decoded at once
csv.field_size_limit(1 << 28)


def kind(file: Path) -> str:
    """The suffix that says how to read a file, without .gz."""
    suffixes = [s.lower() for s in file.suffixes]
    return suffixes[-2] if len(suffixes) > 1 and suffixes[-1] == ".gz" else (suffixes or [""])[-1]


def read_file(file: Path, columns: Sequence[Column]) -> Iterator[Row]:
    """Read the rows of a file of one of `KINDS`."""
    return _READERS[kind(file)](file, columns)


def names_of(file: Path) -> list[str]:
    """List the columns of a file, and the entries of `translation`; none for a .txt file.

    For a csv or tsv file, these are the cells of the first line, even if it is not a header.
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
        raise _not_csv(file, number, error) from error


def with_entries(record: Mapping[str, Any]) -> list[str]:
    """The names in a record, and those of the entries of `translation`: `translation.en` (parallel texts)."""
    inner = record.get(PARALLEL)
    return [*record, *(f"{PARALLEL}.{name}" for name in (inner if isinstance(inner, Mapping) else ()))]


# -- Text files: numbered lines, decoded one at a time so that an error has a line number ------------------------------


def lines(file: Path) -> Iterator[tuple[int, str]]:
    """Read the lines of a text file, which must be UTF-8, with their numbers."""
    number, with_returns = 0, kind(file) == ".csv"  # a quoted cell of a csv file may have a carriage return
    try:
        with gzip.open(file, "rb") if file.suffix.lower() == ".gz" else file.open("rb") as stream:
            for number, raw in enumerate(stream, 1):
                if number == 1 and raw[:2] in {b"\xff\xfe", b"\xfe\xff"}:
                    raise UserError(
                        f"data.path: {file} is UTF-16 (it begins with the bytes {raw[:2].hex(' ')})\n"
                        f"fix: iconv -f UTF-16 -t UTF-8 {file.name} > utf8-{file.name}"
                    )
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                except UnicodeDecodeError as error:
                    raise _not_utf8(file, number, error, raw + stream.read(4096)) from error
                if "\r" in line and not with_returns:
                    raise _with_return(file, number)
                yield number, line
    except (EOFError, zlib.error, OSError) as error:
        raise UserError(
            f"data.path is {file}, which cannot be read: {error}\nfix: give a complete, readable file"
        ) from error


def _not_utf8(file: Path, number: int, error: UnicodeDecodeError, raw: bytes) -> UserError:
    """The error for bytes that are not UTF-8: `raw` is a line with what follows it."""
    said = f"data.path: {file}:{number} is not UTF-8 (byte 0x{error.object[error.start]:02x})"
    encoding = "UTF-16" if 4 * raw.count(b"\0") >= len(raw) else "LATIN1"
    if encoding == "LATIN1" and re.search(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]", raw):  # which no encoding of texts has
        return UserError(f"{said} and not a text file\nfix: give a file of texts; the name of this one may be wrong")
    return UserError(f"{said}\nfix: iconv -f {encoding} -t UTF-8 {file.name} > utf8-{file.name}")


def _with_return(file: Path, number: int) -> UserError:
    return UserError(
        f"data.path: {file}:{number} has a carriage return (CR) within it, which some programs write to end a line\n"
        f"fix: end lines by LF: perl -pe 's/\\r\\n?/\\n/g' {file.name} > lf-{file.name}"
    )


def _not_csv(file: Path, number: int, error: csv.Error) -> UserError:
    if "new-line" in str(error):  # outside of quotes
        return _with_return(file, number)
    return UserError(f"data.path: {file}:{number} is not csv: {error}\nfix: correct the quotes of that row")


def _read_txt(file: Path, columns: Sequence[Column]) -> Iterator[Row]:
    if len(columns) > 1:
        asked = ", ".join(f"{column.name!r} ({column.field})" for column in columns)
        what = "one text per line" if file.stat().st_size else "one text per line, and this one is empty"
        texts = ", or use cse.data.Texts" if columns[0].field.startswith("data.") else ""
        raise UserError(
            f"data.path is {file}: a .txt file has {what}; {len(columns)} columns are to be read: {asked}\n"
            f"fix: give a .tsv, .csv, .jsonl or .parquet file with these columns{texts}"
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
        raise _not_csv(file, reader.line_num, error) from error


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
    """Parse the object in a line of a .jsonl file."""
    try:
        record = json.loads(line, object_pairs_hook=distinct, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        why = "a number has more than 4,300 digits" if "set_int_max" in why else why
        raise UserError(f"data.path: {place} is not JSON: {why}\nfix: correct that line") from None
    if not isinstance(record, dict):
        raise UserError(f"data.path: {place} is not a JSON object\nfix: write one object per line, such as {{...}}")
    return record


def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make the mapping of a JSON object, as `object_pairs_hook`; raise a ValueError if a key is given twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has {next(name for name in names if names.count(name) > 1)!r} twice")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value


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


class FileReader(Reader):
    """One existing file or several of one kind, whose columns agree."""

    def __init__(self, path: str, files: Sequence[Path]) -> None:
        self.what, self.files = path, list(files)
        for file in self.files:
            _require_file(file, path)

    def names(self) -> list[str] | None:
        """The names of the columns of the first file; None for .txt files."""
        return None if kind(self.files[0]) == ".txt" else names_of(self.files[0])

    def key(self) -> str:
        """A hash of all bytes."""
        digest = xxh3_128()
        for file in self.files:
            digest.update(f"{kind(file)} {file.stat().st_size} ".encode())
            with file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
        return str(digest.hexdigest())

    def read(self, columns: Sequence[Column]) -> Iterator[Row]:
        """The rows, file by file."""
        if len(self.files) > 1 and not all(isinstance(c.name, int) for c in columns):
            self._require_agreement()
        return chain.from_iterable(read_file(file, columns) for file in self.files)

    def _require_agreement(self) -> None:
        first, *others = self.files
        wanted = set(names_of(first))
        for file in others if kind(first) not in {".txt", ".jsonl"} else []:
            differing = wanted ^ set(names_of(file))
            if differing:
                raise UserError(
                    f"data.path: {file} and {first} have different columns: only one has "
                    f"{', '.join(map(repr, sorted(differing)[:8]))}\nfix: give shards with the same columns"
                )


def shards(folder: Path, path: str) -> list[Path]:
    """The files of a folder, which must be of one kind; others, such as README.md, do not count."""
    files = sorted(file for file in folder.iterdir() if kind(file) in KINDS and not file.name.startswith("."))
    if not files:
        raise UserError(
            f"data.path is {path}, which is a folder without a {', '.join(KINDS)} file\n"
            f"fix: give a file or another folder; in it: {', '.join(_inside(folder)[:12]) or 'nothing'}"
        )
    return _of_one_kind(files, f"{path}, which is a folder")


def matching(path: str) -> list[Path]:
    """The files of a pattern."""
    pattern = Path(path).expanduser()
    found = Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor)))
    files = sorted(file for file in found if file.is_file())
    if not files:
        raise UserError(f"data.path is {path}: no file matches this pattern\nfix: give a pattern of existing files")
    return _of_one_kind(files, path)


def _of_one_kind(files: list[Path], path: str) -> list[Path]:
    kinds = sorted({kind(file) for file in files})
    if len(kinds) > 1:
        shown = ", ".join(file.name for file in files[:12])
        raise UserError(
            f"data.path is {path} with files of {len(kinds)} kinds: {shown}\n"
            f"fix: give one of them, or a pattern of one kind, such as '{files[0].parent}/*{kinds[0]}'"
        )
    return files


def _require_file(file: Path, path: str) -> None:
    if file.is_symlink() and not file.exists():
        raise UserError(f"data.path is {path}, a link to {file.readlink()}, which does not exist\nfix: give a file")
    if not file.exists():
        near = difflib.get_close_matches(file.name, _inside(file.parent), n=1)
        hint = f"did you mean {file.parent / near[0]}? " if near else ""
        raise UserError(
            f"data.path is {path}: there is no such file\nfix: {hint}give a {', '.join(KINDS)} file, asset:NAME, or a "
            "Hub id (org/name, org/name:file or stream:org/name)"
        )
    require_regular(file, "data.path")
    if kind(file) not in KINDS:
        raise UserError(
            f"data.path is {path}, whose format is unknown\nfix: give a file that ends in {', '.join(KINDS)}"
        )


def _inside(folder: Path) -> list[str]:
    """Some names in a folder, for a hint."""
    try:
        return sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))[:1000]
    except OSError:
        return []
