"""Pairs of sentences with a gold score: our TSV layout and SentEval's folder layout, read and checked."""

from __future__ import annotations

import hashlib
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cse.data.reading.rows import number_fix, number_in
from cse.errors import UserError
from cse.evaluation.suite import Task

APART, ATTACHED = re.compile(r"\s[.,?](?=\s|$)"), re.compile(r"\w[.,?](?=\s|$)")
HEADER = ["score", "sentence1", "sentence2"]


@dataclass(frozen=True)
class Pairs:
    """Scored pairs.

    Attributes:
        first: One sentence of each pair.
        second: The other.
        gold: (n,) gold scores.
        blank: Number of rows that were left out because they have no gold score.
    """

    first: tuple[str, ...]
    second: tuple[str, ...]
    gold: NDArray[np.float64]
    blank: int = 0

    def __len__(self) -> int:
        return len(self.first)


_Row = tuple[str, str, str, str]  # gold, first, second, and file:line


def read_tsv(task: Task, folder: Path) -> dict[str, Pairs]:
    """Subsets of a task in our layout: `folder/<TASK>/<subset>.tsv`.

    Raises:
        FileNotFoundError: A file is missing.
        UserError: A file is malformed.
    """
    paths = {subset: folder / task.base / f"{subset}.tsv" for subset in task.counts}
    require(paths.values())
    return {subset: _pairs(_tsv_rows(path)) for subset, path in paths.items()}


def read_shipped(task: Task, path: Path) -> dict[str, Pairs]:
    """Subsets of a shipped file, whose fourth column names the subset of each row."""
    rows = defaultdict(list)
    for line, where in lines(path, skip=1):
        gold, first, second, subset = fields(line, 4, where)[:4]
        rows[subset].append((gold, first, second, where))
    return {subset: _pairs(found) for subset, found in sorted(rows.items())}


def read_senteval(task: Task, folder: Path) -> dict[str, Pairs]:
    """Subsets of a task in the layout of SentEval's `downstream` folder. Rows with an empty gold are left out.

    Raises:
        FileNotFoundError: A file is missing.
        UserError: A file is malformed.
    """
    if "pairs" in task.senteval:
        base = folder / task.senteval["pairs"]
        files = {s: (base / f"STS.input.{s}.txt", base / f"STS.gs.{s}.txt") for s in task.counts}
        require(path for both in files.values() for path in both)
        return {subset: _pairs(_twin_rows(*both)) for subset, both in files.items()}
    path = folder / task.senteval["files"][task.split]
    require([path])
    return {task.split: _pairs(_column_rows(path, task.senteval))}


def check_known(task: Task, subsets: Mapping[str, Pairs], where: str) -> None:
    """Refuse data whose size is not the known one, or whose gold scores are impossible.

    Raises:
        UserError: A subset has another number of pairs, or a gold score lies outside the task's scale.
    """
    low, high = task.scale
    for subset, pairs in subsets.items():
        outside = np.flatnonzero((pairs.gold < low) | (pairs.gold > high))
        if len(outside):
            raise UserError(
                f"{task.name}: {where}, subset {subset}: the gold score {pairs.gold[outside[0]]:g} of pair "
                f"{outside[0] + 1} lies outside {low:g} to {high:g}\nfix: correct the data, or pass --unchecked"
            )
        known = task.counts.get(subset, task.total)
        if task.counts and len(pairs) != known:
            raise UserError(
                f"{task.name}: {where}, subset {subset}: {len(pairs)} pairs with a gold score where {known} are known."
                f"\nA score on other rows is not comparable, so nothing was scored.\n"
                f"fix: fetch the set again, or pass --unchecked if another set is intended"
            )


def sha256(subsets: Mapping[str, Pairs]) -> str:
    """Hash of the rows themselves, in order: the same whatever layout or number format they were read from."""
    digest = hashlib.sha256()
    for pairs in subsets.values():
        for gold, first, second in zip(pairs.gold, pairs.first, pairs.second, strict=True):
            digest.update(f"{float(gold)!r}\t{first}\t{second}\n".encode())
    return digest.hexdigest()


def text_form(subsets: Mapping[str, Pairs], otherwise: str) -> str:
    """Say raw or tokenized, by whether punctuation stands apart from words more often than not.

    Args:
        subsets: The rows.
        otherwise: The answer for text without punctuation.
    """
    apart = attached = 0
    for pairs in subsets.values():
        for text in pairs.first + pairs.second:
            apart += len(APART.findall(text))
            attached += len(ATTACHED.findall(text))
    if not apart + attached:
        return otherwise
    return "tokenized" if apart > attached else "raw"


def make_pairs(gold: Iterable[Any], first: Iterable[str], second: Iterable[str], where: str) -> Pairs:
    """Checked pairs from columns, for data that was not read from a file of lines."""
    rows = zip(gold, first, second, strict=True)
    return _pairs((str(g), a, b, f"{where} row {i}") for i, (g, a, b) in enumerate(rows))


def _pairs(rows: Iterable[_Row]) -> Pairs:
    scores, firsts, seconds, blank = list[float](), list[str](), list[str](), 0
    for gold, first, second, where in rows:
        if not gold.strip():
            blank += 1
            continue
        if not first.strip() or not second.strip():
            raise UserError(f"{where}: a sentence is empty\nfix: remove or correct the row")
        score = number_in(gold)
        if not math.isfinite(score):
            raise UserError(f"{where}: the gold score {gold[:40]!r} is not a number\nfix: {number_fix(gold)}")
        scores.append(score)
        firsts.append(first)
        seconds.append(second)
    return Pairs(tuple(firsts), tuple(seconds), np.array(scores, dtype=np.float64), blank)


def _tsv_rows(path: Path) -> Iterator[_Row]:
    for line, where in lines(path, skip=1):
        gold, first, second = fields(line, 3, where)[:3]
        yield gold, first, second, where


def _twin_rows(texts: Path, golds: Path) -> Iterator[_Row]:
    rows, scores = list(lines(texts)), list(lines(golds))
    if len(rows) != len(scores):
        raise UserError(
            f"{texts} has {len(rows)} lines and {golds} has {len(scores)}\nfix: make the two match line by line"
        )
    for (line, where), (gold, _) in zip(rows, scores, strict=True):
        first, second = fields(line, 2, where)[:2]
        yield gold, first, second, where


def _column_rows(path: Path, layout: Mapping[str, Any]) -> Iterator[_Row]:
    columns = layout["columns"]
    for line, where in lines(path, skip=int(layout["header"])):
        cells = fields(line, max(columns.values()) + 1, where)
        yield cells[columns["gold"]], cells[columns["first"]], cells[columns["second"]], where


def lines(
    path: Path, skip: int = 0, header: list[str] | None = HEADER, encoding: str = "utf-8-sig"
) -> Iterator[tuple[str, str]]:
    """Each line with its file and number. Only line feeds end a line: `splitlines` would also cut inside texts."""
    try:
        text = path.read_bytes().decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8\nfix: convert the file to UTF-8") from None
    found = text.split("\n")
    if found[-1] == "":
        found.pop()
    if skip and header and path.suffix == ".tsv" and (not found or found[0].rstrip("\r").split("\t")[:3] != header):
        raise UserError(
            f"{path}:1: the header must read: {' '.join(header)} (tab separated)\nfix: correct the first line"
        )
    for number, line in enumerate(found[skip:], start=skip + 1):
        yield line.rstrip("\r"), f"{path}:{number}"


def fields(line: str, at_least: int, where: str) -> list[str]:
    """The tab-separated cells of a line, of which there must be `at_least`."""
    cells = line.split("\t")
    if len(cells) < at_least:
        raise UserError(
            f"{where}: {len(cells)} tab-separated fields where {at_least} are needed: {line[:60]!r}\n"
            "fix: correct the row"
        )
    return cells


def require(paths: Iterable[Path]) -> None:
    """Raise FileNotFoundError, naming the first, unless all are files."""
    absent = [str(path) for path in paths if not path.is_file()]
    if absent:
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise FileNotFoundError(f"no {absent[0]}{more}")
