"""Rows of SentEval's transfer tasks, from our TSV layout or SentEval's own."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cse.errors import UserError
from cse.evaluation import sources
from cse.evaluation.pairs import fields, lines, require
from cse.evaluation.sources import Missing
from cse.evaluation.suite import TASKS

LATIN = "latin-1"  # MR, CR, SUBJ, MPQA and TREC are distributed in it


@dataclass(frozen=True)
class Row:
    """A labeled sentence, or pair of sentences."""

    label: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Labeled:
    """A task with its rows by split, and where they were read."""

    name: str
    protocol: str
    splits: Mapping[str, list[Row]]
    where: str


@functools.cache
def specs() -> Mapping[str, Mapping[str, Any]]:
    """The content of `tasks/transfer.yaml`, by task, in the order of papers."""
    found: dict[str, Mapping[str, Any]] = yaml.safe_load((TASKS / "transfer.yaml").read_text(encoding="utf-8"))
    return found


def load(name: str, data: str | None, *, check: bool = True) -> Labeled:
    """Rows of a task from the first folder that has them.

    Raises:
        Missing: No folder has them.
        UserError: The rows are malformed, or their number is not the known one.
    """
    spec, looked = specs()[name], []
    for folder in sources.folders(data):
        for place, read in (("", _tsv), ("transfer", _tsv), ("", _senteval), ("downstream", _senteval)):
            try:
                splits = read(name, folder / place)
            except FileNotFoundError as absent:
                looked.append(str(absent))
                continue
            for split, known in spec["counts"].items():
                if check and len(splits[split]) not in known:
                    raise UserError(
                        f"{name}: {split} in {folder / place} has {len(splits[split])} rows where {known[0]} are known."
                        "\nfix: fetch the set again, or pass --unchecked if another set is intended"
                    )
            return Labeled(name, spec["protocol"], splits, str(folder / place))
    raise Missing("; ".join(looked) or "no --data and no CSE_DATA")


def _tsv(name: str, root: Path) -> dict[str, list[Row]]:
    spec = specs()[name]
    paths = {s: root / (f"{name}.tsv" if s == "all" else f"{name}_{s}.tsv") for s in spec["counts"]}
    require(paths.values())
    width = 3 if spec.get("pairs") else 2
    found = {}
    for split, path in paths.items():
        cells = (fields(line, width, where) for line, where in lines(path, skip=1, header=None))
        found[split] = [Row(c[0], tuple(c[1:width])) for c in cells]
    return found


def _senteval(name: str, root: Path) -> dict[str, list[Row]]:
    (kind, files) = next(iter(specs()[name]["senteval"].items()))
    paths = {key: root / path for key, path in files.items()}
    require(paths.values())
    if kind == "classes":
        return {
            "all": [Row(label, (line,)) for label, path in paths.items() for line, _ in lines(path, encoding=LATIN)]
        }
    return {split: list(_READERS[kind](path)) for split, path in paths.items()}


def _lines(path: Path) -> Iterator[Row]:
    """SST2: sentence, label."""
    for line, where in lines(path):
        sentence, label = fields(line, 2, where)[:2]
        yield Row(label.strip(), (sentence,))


def _coded(path: Path) -> Iterator[Row]:
    """TREC: COARSE:fine and the question, with a space between."""
    for line, where in lines(path, encoding=LATIN):
        code, _, question = line.partition(" ")
        if ":" not in code:
            raise UserError(
                f"{where}: a line must begin with its class, such as NUM:dist; this one begins with {code[:20]!r}\n"
                "fix: correct the line"
            )
        yield Row(code.split(":")[0], (question,))


def _columns(path: Path) -> Iterator[Row]:
    """MRPC: label, two ids, two sentences, under a header."""
    for line, where in lines(path, skip=1, header=None):
        cells = fields(line, 5, where)
        yield Row(cells[0].strip(), (cells[3], cells[4]))


_READERS = {"lines": _lines, "coded": _coded, "columns": _columns}
