"""Writes rows as .parquet or .jsonl files that the data classes read, and what they were made of beside them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cse.data.datasets import Dataset
from cse.data.reading.files import matching
from cse.environment import versions
from cse.errors import UserError
from cse.files import atomic_file, check_writable, sha256_file, write_json

KINDS = (".parquet", ".jsonl")
BLOCK = 8_192  # rows that are written at once
LIBRARIES = ("datasets", "numpy", "pyarrow")
UNITS = {"sentences": "Texts", "pairs": "Pairs", "triplets": "Triplets", "scored pairs": "ScoredPairs"}

Record = dict[str, Any]


def check_out(out: Path, sources: Sequence[object], files: Sequence[Path] | None = None) -> None:
    """Check the file to write, or the `files` in its place, and its manifest, before any work; none may be a source."""
    if out.suffix not in KINDS:
        raise UserError(f"--out {out} is not a {' or '.join(KINDS)} file\nfix: give a name that ends so")
    read = {file for source in sources if isinstance(source, str | Path) for file in _files(str(source))}
    for file in (*(files or [out]), manifest_of(out)):
        check_writable(file)
        if file.resolve() in read or file.absolute().parent.resolve() in read:
            raise UserError(f"--out {out} writes {file}, which is a source or in one\nfix: give another file")


def manifest_of(out: Path) -> Path:
    """The manifest beside a file: a .json file of the same name."""
    return out.with_suffix(".json")


def _files(source: str) -> set[Path]:
    """The files of a source, or its folder."""
    path = Path(source).expanduser()
    if path.exists():
        return {path.resolve()}
    with suppress(UserError, ValueError, NotImplementedError):
        return {file.resolve() for file in matching(source)}
    return set()


# -- Rows as records --------------------------------------------------------------------------------------------------


def names_of(data: Sequence[Dataset]) -> list[str]:
    """List the columns of rows of one class: texts, then the values that rows have."""
    kinds = list(dict.fromkeys(UNITS.get(each.unit, each.unit) for each in data))
    if len(kinds) > 1 or kinds[0] not in UNITS.values():
        raise UserError(
            f"the rows are {' and '.join(kinds)}, and one file holds rows of one class\n"
            "fix: read them as one class (--class Pairs), or write a file for each"
        )
    most = max(data, key=lambda each: each.num_positives)
    widest = max(max(len(row) for block in each.blocks() for row in block) for each in data if len(each))
    has = frozenset[str]().union(*(each.value_names for each in data))
    grades = [f"relevance_{i}" for i in range(1, most.num_positives + 1)] if "relevance" in has else []
    return [
        *_text_names(most, widest),
        *(n for n in ("score", "weight", "label") if n in has),
        *grades,
        *({"teacher"} & has),
    ]


def records(data: Dataset, rows: Iterable[int] | None = None) -> Iterator[Record]:
    """Make records of rows, or of some; scores are on the scale on which they were read, labels have their names."""
    scores = data.scores()
    for row in range(len(data)) if rows is None else rows:
        example = data[row]
        found: Record = dict(zip(_text_names(data, len(example.texts)), example.texts, strict=True))
        if scores is not None:
            found["score"] = float(scores[row])
        if example.weight is not None:
            found["weight"] = example.weight
        if example.label is not None:
            found["label"] = data.label_names[example.label]
        found |= {f"relevance_{i}": grade for i, grade in enumerate(example.relevance or (), 1)}
        if example.teacher is not None:
            found["teacher"] = list(example.teacher)
        yield found


def records_at(data: Sequence[Dataset], rows: NDArray[np.int64]) -> Iterator[Record]:
    """Make records of some rows, whose numbers count over all data sets, ascending."""
    for each, begin, end in zip(data, places := np.cumsum([0, *map(len, data)]), places[1:], strict=False):
        yield from records(each, (rows[(rows >= begin) & (rows < end)] - begin).tolist())


def _text_names(data: Dataset, width: int) -> list[str]:
    if data.unit in {"sentences", "scored pairs"}:
        return ["text"] if data.unit == "sentences" else ["sentence1", "sentence2"]
    positives = ["positive", *(f"positive_{i}" for i in range(2, data.num_positives + 1))]
    return ["anchor", *positives, *(f"negative_{i}" for i in range(1, width - data.num_positives))]


# -- Files ------------------------------------------------------------------------------------------------------------


def write_rows(out: Path, names: Sequence[str], rows: Iterable[Record], *, suffix: str = "") -> int:
    """Write records to a .parquet or .jsonl file, completely or not at all; returns how many.

    A record that lacks one of the columns `names` has null there. A value is a text, or a float in a column whose name
    begins with score, weight or relevance or ends with score; in one whose name begins with teacher, a float or a
    list of floats. `suffix` names the format, if `out` does not.
    """
    count = 0
    with atomic_file(out) as scratch:
        for block in (_parquet if (suffix or out.suffix) == ".parquet" else _jsonl)(scratch, names, _blocks(rows)):
            count += block
    return count


def _blocks(rows: Iterable[Record]) -> Iterator[list[Record]]:
    """Lists of records; the last one may be empty, so that a file without rows has its columns."""
    block: list[Record] = []
    for row in rows:
        block.append(row)
        if len(block) == BLOCK:
            yield block
            block = []
    yield block


def _jsonl(file: Path, names: Sequence[str], blocks: Iterator[list[Record]]) -> Iterator[int]:
    with file.open("w", encoding="utf-8", newline="\n") as stream:
        for block in blocks:
            for row in block:
                ordered = {name: row.get(name) for name in names}
                stream.write(json.dumps(ordered, ensure_ascii=False) + "\n")
            yield len(block)


def _parquet(file: Path, names: Sequence[str], blocks: Iterator[list[Record]]) -> Iterator[int]:
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    def is_number(name: str) -> bool:
        return name.startswith(("score", "weight", "relevance")) or name.endswith("score")

    def kind(name: str, block: list[Record]) -> pyarrow.DataType:
        if name.startswith("teacher"):
            listed = bool(block) and isinstance(block[0].get(name), list)
            return pyarrow.list_(pyarrow.float32()) if listed else pyarrow.float32()
        return pyarrow.float64() if is_number(name) else pyarrow.string()

    first = next(blocks)
    schema = pyarrow.schema([(name, kind(name, first)) for name in names])
    with ParquetWriter(file, schema) as writer:
        for block in chain([first], blocks):
            writer.write_table(pyarrow.Table.from_pylist(block, schema=schema))
            yield len(block)


def write_manifest(
    out: Path, made_by: str, data: Sequence[Dataset], settings: Record, counts: Record, files: Sequence[Path]
) -> Record:
    """Write the manifest of a file: the command, its settings, the sources and their hashes, counts, and outputs."""
    manifest: Record = {
        "made_by": made_by,
        "settings": settings,
        "sources": [
            {
                "path": each.name,
                "class": UNITS.get(each.unit, each.unit),
                "understood": each.understood,
                "rows": len(each),
                "left_out": {name: count for name, count in each.report.items() if count},
                "sha256": each.hash,
            }
            for each in data
        ],
        "counts": counts,
        "out": [{"path": file.name, "sha256": sha256_file(file)} for file in files],
        "versions": versions(LIBRARIES),
    }
    write_json(manifest_of(out), manifest)
    return manifest
