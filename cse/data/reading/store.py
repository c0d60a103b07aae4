"""Rows as an Arrow table in the cache: written once, then memory-mapped by every process of the machine."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64

from cse.data.reading.numbering import Numbering, fingerprints, without_collision
from cse.errors import UserError
from cse.files import atomic_dir, cache_dir, read_sealed, write_sealed, writing_cache

log = logging.getLogger("cse")
BLOCK = 32_768  # rows that are Python objects at the same time
FORMAT = 1  # to be raised when other rows are read from the same source
MARKED = 256  # blocks of 1 MiB of a file that are compared before it is used
VALUES = {"score": "float64", "weight": "float64", "label": "int64", "relevance": "list", "teacher": "vector"}
VALUES |= {"spans": "string"}


class Kept(NamedTuple):
    """A row to keep: its texts, its values (score, relevance, ...), and the number of its missing cells."""

    texts: tuple[str, ...]
    values: tuple[Any, ...] = ()
    missing: int = 0


Report = dict[str, int]
Scale = tuple[float | None, float | None]
ReadRows = Callable[[Report, list[str]], Iterator[Kept]]


class Stored:
    """The rows in a folder of the cache, whose values have `names`; see `cse.data.Dataset` for the other attributes."""

    def __init__(self, folder: Path) -> None:
        meta = read_sealed(folder / "meta.json")
        self.report: Report = meta["report"]
        self.remarks: Report = meta["remarks"]
        self.hash: str = meta["hash"]
        self.ragged: bool = meta["ragged"]
        self.labels: list[str] = meta["labels"]
        self._scale: tuple[float, float] = tuple(meta["scale"])
        self.names: tuple[str, ...] = tuple(meta["names"])
        self._folder = folder
        self._open()

    def _open(self) -> None:
        from datasets import Dataset

        table = Dataset.from_file(str(self._folder / "rows.arrow")).data.table
        self._texts, self._values = table.column("texts"), {name: table.column(name) for name in self.names}

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the table, which another process maps by itself."""
        return {name: value for name, value in vars(self).items() if name not in {"_texts", "_values"}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()

    def __len__(self) -> int:
        return len(self._texts)

    def texts(self, row: int) -> tuple[str, ...]:
        """The texts of a row."""
        return tuple(self._texts[row].as_py())

    def values(self, row: int) -> dict[str, Any]:
        """The values of a row by name."""
        return {name: self._value(name, column[row].as_py()) for name, column in self._values.items()}

    def _value(self, name: str, value: Any) -> Any:
        """A value as an `Example` has it; scores are on disk as they were written."""
        if name == "score":
            low, high = self._scale
            return (value - low) / (high - low or 1.0)
        return tuple(value) if isinstance(value, list) else value

    def listed(self, name: str) -> Iterator[str]:
        """The text `[0.5, 1.0]` of all values of a name, in parts; `[]` if rows do not have it."""
        before = "["
        for chunk in self._values[name].iterchunks() if name in self.names else ():
            if len(chunk):
                yield before + ", ".join(repr(self._value(name, value)) for value in chunk.to_pylist())
                before = ", "
        yield "[]" if before == "[" else "]"

    def vectors(self, name: str) -> Iterator[NDArray[np.float32]]:
        """The numbers of all rows of a name, one row after the other, in parts; nothing if rows do not have it."""
        return (c.flatten().to_numpy() for c in (self._values[name].iterchunks() if name in self.names else ()))

    def blocks(self) -> Iterator[list[list[str]]]:
        """The texts of all rows, some thousands of rows at a time."""
        return (chunk.to_pylist() for chunk in self._texts.iterchunks())

    def column(self, name: str) -> Any:
        """The values of all rows, as an array of numpy."""
        return self._values[name].to_numpy()


def stored(
    key: str | None, names: Sequence[str], rows: ReadRows, limit: int | None = None, scale: Scale = (0.0, 1.0)
) -> Stored:
    """Open the rows of a source, from the cache if they were written before.

    Args:
        key: A text that differs for other rows; None: the rows are written, and then named by their content.
        names: The names of the values of a row.
        rows: A function that reads the rows from the start, and may be called again.
        limit: Number of rows to keep, repetitions not counted. None: all.
        scale: The scores that become 0 and 1; None for the smallest or largest one of the rows.
    """

    def write(folder: Path, seed: int) -> None:
        _write(folder, names, rows, limit, scale, seed)

    def named(text: str) -> Path:
        return cache_dir() / "rows" / hashlib.sha256(f"{FORMAT} {text}".encode()).hexdigest()[:32]

    if key is not None:
        return Stored(cached(named(key), "rows", write))
    with writing_cache("rows"):
        scratch = cached(cache_dir() / "rows" / f"new-{uuid4().hex}", "rows", write)
        folder = named(f"{read_sealed(scratch / 'meta.json')}")  # the name of its content
        if is_whole(folder, "rows"):
            shutil.rmtree(scratch)
        else:
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(scratch, folder)
        scratch.with_name(f"{scratch.name}.lock").unlink(missing_ok=True)
        return Stored(folder)


def cached(folder: Path, what: str, write: Callable[[Path, int], None]) -> Path:
    """Fill a folder of the cache unless it is whole, by a function of a folder and of the seed of fingerprints."""
    from filelock import FileLock

    with writing_cache(what):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):  # the processes of a machine ask at once; the first writes
            if not is_whole(folder, what):
                with atomic_dir(folder) as fresh:
                    without_collision(partial(write, fresh))
    return folder


def _write(folder: Path, names: Sequence[str], rows: ReadRows, limit: int | None, scale: Scale, seed: int) -> None:
    """Write rows.arrow without repeated rows, and meta.json."""
    import pyarrow
    from datasets import Features, List, Value
    from datasets.arrow_writer import ArrowWriter

    lists = {"list": List(Value("float64")), "vector": List(Value("float32"))}
    kinds = {name: lists.get(VALUES[name]) or Value(VALUES[name]) for name in names}
    features = Features({"texts": List(Value("string")), **kinds})
    report: Report = {"blank": 0, "duplicate": 0, "missing": 0}
    remarks, widths, digest = Counter[str](), Counter[int](), hashlib.sha256()
    index = folder / "index"
    index.mkdir(exist_ok=True)
    labels, scores = list[str](), [math.inf, -math.inf]
    numbering, read = Numbering(index), rows(report, labels)
    with ArrowWriter(path=str(folder / "rows.arrow"), features=features, writer_batch_size=BLOCK) as writer:
        while block := list(islice(read, BLOCK if limit is None else min(BLOCK, limit - numbering.count))):
            _, is_new = numbering.add(fingerprints(map(_identity, block), seed))
            kept = [row for row, new in zip(block, is_new.tolist(), strict=True) if new]
            report["duplicate"] += len(block) - len(kept)
            report["missing"] += sum(row.missing for row in kept)
            widths.update(len(row.texts) for row in kept)
            if "score" in names and kept:
                each = [row.values[names.index("score")] for row in kept]
                scores = [min(scores[0], *each), max(scores[1], *each)]
            for row in kept:
                remarks.update(_remarks(row.texts))
                digest.update("\x1f".join(row.texts).encode() + b"\x1e")
            columns = [[row.texts for row in kept], *(list(c) for c in zip(*(row.values for row in kept), strict=True))]
            if kept:
                writer.write_table(
                    pyarrow.Table.from_arrays(
                        [pyarrow.array(c, features.arrow_schema.field(i).type) for i, c in enumerate(columns)],
                        schema=features.arrow_schema,
                    )
                )
        if not numbering.count:
            writer.write_table(features.arrow_schema.empty_table())
        writer.finalize()
    numbering.close()
    shutil.rmtree(index)
    meta: dict[str, Any] = {
        "report": report,
        "remarks": dict(remarks),
        "ragged": len(widths) > 1,
        "names": list(names),
        "labels": labels,
        "scale": [end if given is None else given for given, end in zip(scale, scores, strict=True)],
    }
    write_sealed(folder / "meta.json", meta | {"hash": ""})
    rows_written = Stored(folder)
    meta["hash"] = _hashed(digest, rows_written)
    if "label" in names:
        once = int((np.bincount(rows_written.column("label")) == 1).sum())
        meta["remarks"] = {**remarks, **({"label that occurs once": once} if once else {})}
    write_sealed(folder / "meta.json", meta | {"marks": {"rows.arrow": mark(folder / "rows.arrow")}})


def _identity(row: Kept) -> str:
    """A text that is the same for the same row only."""
    lengths = " ".join(map(str, map(len, row.texts)))
    values = tuple([value.tobytes() if isinstance(value, np.ndarray) else value for value in row.values])
    return f"{lengths}:{''.join(row.texts)}{values or ''}"


def _remarks(texts: tuple[str, ...]) -> Iterator[str]:
    """Describe what is unusual about a row of several texts."""
    if len(texts) > 1 and texts[1] == texts[0]:
        yield "positive equal to its anchor"
    if len(texts) > 2 and texts[1] in texts[2:]:
        yield "negative equal to its positive"


def _hashed(digest: Any, rows: Stored) -> str:
    """The hash of the content: the texts, which `digest` has seen, then the values as Python writes lists of them."""
    for part in rows.listed("score"):
        digest.update(part.encode())
    for name in ("weight", "label", "relevance", "spans"):
        if name in rows.names:
            for part in chain([name], rows.listed(name)):
                digest.update(part.encode())
    for block in rows.vectors("teacher"):
        digest.update(b"teacher" + block.tobytes())
    return str(digest.hexdigest())


def require_two(rows: Stored, what: str) -> None:
    """Raise a UserError unless there are two different rows."""
    if len(rows) > 1:
        return
    counts = ", ".join(f"{count} {kind}" for kind, count in rows.report.items() if count) or "it is empty"
    if not len(rows):
        raise UserError(f"{what}: there is no text in it ({counts})\nfix: give rows with texts")
    why = "every row is the same" if rows.report["duplicate"] else "it has one row"
    raise UserError(
        f"{what}: {why}: {rows.texts(0)[0][:60]!r}\nfix: give rows with different texts, since training contrasts them"
    )


def is_whole(folder: Path, what: str) -> bool:
    """Tell whether an entry of the cache exists and is undamaged; a damaged entry is built again."""
    if not folder.exists():
        return False
    try:
        marks: Mapping[str, str] = read_sealed(folder / "meta.json")["marks"]
        good = all(mark(folder / name) == value for name, value in marks.items())
    except (OSError, ValueError):
        good = False
    if not good:
        log.warning("%-10s the cache entry %s is damaged; building it again", what, folder)
    return good


def mark(file: Path) -> str:
    """A hash of a file's size and content; of a large file's, blocks at equal distances, the first and the last."""
    size, step = file.stat().st_size, 1 << 20
    last = max(0, -(-size // step) - 1)
    digest = xxh3_64(str(size).encode())
    with file.open("rb") as stream:
        for block in sorted({round(i * last / (MARKED - 1)) for i in range(MARKED)}):
            stream.seek(block * step)
            digest.update(stream.read(step))
    return str(digest.hexdigest())
