"""Data sets of `Example`, read from a file, an asset or the Hub. The constructor reads and checks all rows.

    Texts        one text in each row; the collator makes its views
    Pairs        two texts with the same meaning, or an anchor and several positives
    Triplets     anchor, positive, hard negatives
    ScoredPairs  two texts and their similarity

`path` is a .txt, .csv, .tsv, .jsonl or .parquet file, each also as .gz, `asset:NAME`, or a Hub id: `org/name`,
`org/name:file`, or `stream:org/name`, which keeps no copy on disk and fetches only `limit` rows. `path` may also be an
object in memory: a list of strings, of tuples in the order of the columns, or of dicts; a pandas or polars DataFrame; a
`datasets.Dataset`.

White space around a text is removed. Blank rows and exact repetitions of a row are left out and counted in `report`; a
missing cell becomes one space, as in SimCSE, and is counted too.

A `weight_column` gives the weight of each row in the mean of an objective. A `label_column` gives the class or cluster
of each row, for samplers; its values may be any text or number. `relevance_columns` grade the positives of each row.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, overload

from cse.batch import Example
from cse.data.memory import label, read, save
from cse.data.sources import Column, Row
from cse.errors import UserError, require_at_least

SPACE = " "
Parse = Callable[[str | None, str], float]  # from a cell and its place to a number


@dataclass(slots=True)
class _Rows:
    """Rows while they are read: the rows that are kept, and counts of those that are left out or repaired."""

    texts: list[tuple[str, ...]] = field(default_factory=list)
    extras: dict[str, list[Any]] = field(default_factory=dict)
    report: dict[str, int] = field(default_factory=lambda: {"blank": 0, "duplicate": 0, "missing": 0})
    label_names: list[str] = field(default_factory=list)


class Dataset(Sequence[Example]):
    """Rows in memory, in the order of the source.

    Attributes:
        name: The path that was given, or the type of the object that held the rows.
        path: The source that was read: a path, or an object in memory.
        asked: The columns that were read.
        report: Counts of `blank` and `duplicate` rows that are left out, of `missing` cells, and of what a class adds.
        hash: The sha256 of the content.
        label_names: The class or cluster that each `Example.label` stands for; empty without labels.
    """

    unit = "rows"
    num_positives = 1

    def __init__(self, source: str | Path | Sized, asked: Sequence[Column], rows: _Rows) -> None:
        self.path: str | Sized = str(source) if isinstance(source, Path) else source
        self.name, self.asked, self.report = label(source), list(asked), rows.report
        _require_distinct(f"data is a {self.name}" if self.in_memory else f"data.path is {self.name}", rows)
        self._texts, self._extras, self.label_names = rows.texts, rows.extras, rows.label_names
        self.hash = _hash(rows)

    def __len__(self) -> int:
        return len(self._texts)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        """The row at a position, or the rows of a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = range(len(self))[index]
        extras: dict[str, Any] = {name: values[row] for name, values in self._extras.items()}
        return Example(self._texts[row], num_positives=self.num_positives, row_id=row, **extras)

    @property
    def in_memory(self) -> bool:
        """Whether the rows came from an object in memory, which no recipe can name."""
        return not isinstance(self.path, str)

    def save_source(self, target: Path) -> None:
        """Write the rows that came from memory, as they were before anything was left out; see `cse.data.memory`."""
        if not isinstance(self.path, str):
            save(self.path, self.asked, target)

    @property
    def ragged(self) -> bool:
        """Whether rows have unequal numbers of texts."""
        return len(set(map(len, self._texts))) > 1

    @property
    def weighted(self) -> bool:
        """Whether rows have weights."""
        return "weight" in self._extras

    @property
    def graded(self) -> bool:
        """Whether positives have relevances."""
        return "relevance" in self._extras

    def unique_texts(self) -> list[str]:
        """The distinct texts of all rows, in order of their first occurrence."""
        return list(dict.fromkeys(text for row in self._texts for text in row))

    def describe(self) -> str:
        """A description such as `asset:wiki 36,310 sentences`."""
        return f"{self.name} {len(self):,} {self.unit}"


class Texts(Dataset):
    """Rows of one text.

    Args:
        path: The source of the rows; see the docstring of the module.
        column: The name of the column, or its number in a csv or tsv file without a header; ignored for a .txt file.
        split: Split of a data set on the Hub.
        limit: Number of rows to keep. None: all.
        min_words: Smallest number of words; shorter texts are left out and counted as `short` in `report`.
        max_words: Largest number of words; longer texts are left out and counted as `long`. None: no limit.
        weight_column: Name or number of the column of weights, which must be >= 0. None: all rows have weight 1.
        label_column: Name or number of the column of classes or clusters. None: rows have no labels.

    Raises:
        UserError: An argument is out of range, or the source cannot be read.
    """

    unit = "sentences"

    def __init__(
        self,
        path: str | Path | Sized,
        *,
        column: int | str = "text",
        split: str = "train",
        limit: int | None = None,
        min_words: int = 0,
        max_words: int | None = None,
        weight_column: int | str | None = None,
        label_column: int | str | None = None,
    ) -> None:
        require_at_least(0, "data", min_words=min_words)
        require_at_least(max(1, min_words), "data", max_words=max_words)
        self.column, self.split, self.limit, self.min_words, self.max_words = column, split, limit, min_words, max_words
        self.weight_column, self.label_column = weight_column, label_column
        marks, extras = _marks(weight_column, label_column)
        asked = [Column("data.column", column), *marks]

        def wanted(texts: tuple[str, ...], report: dict[str, int]) -> bool:
            words = len(texts[0].split())
            verdict = "short" if words < min_words else "long" if max_words is not None and words > max_words else None
            if verdict:
                report[verdict] = report.get(verdict, 0) + 1
            return verdict is None

        source = read(path, asked, split)
        super().__init__(path, asked, _collect(source, limit=limit, wanted=wanted, extras=extras))


class Pairs(Dataset):
    """Rows of an anchor and its positive, or of an anchor and several positives.

    Args:
        path: The source of the rows; see the docstring of the module.
        columns: Two names, or two numbers in a csv or tsv file without a header; more are those of further positives.
        relevance_columns: Names or numbers of the columns with the relevance of each positive, a number >= 0 (GCL); one
            for each positive. None: positives are not graded.
        split: Split of a data set on the Hub.
        limit: Number of rows to keep. None: all.
        weight_column: Same as in `Texts`.
        label_column: Same as in `Texts`.

    Raises:
        UserError: An argument is out of range, the source cannot be read, or a weight or a relevance is not a number
            >= 0.
    """

    unit = "pairs"

    def __init__(
        self,
        path: str | Path | Sized,
        *,
        columns: Sequence[int | str] = ("sentence1", "sentence2"),
        relevance_columns: Sequence[int | str] | None = None,
        split: str = "train",
        limit: int | None = None,
        weight_column: int | str | None = None,
        label_column: int | str | None = None,
    ) -> None:
        self.columns, self.relevance_columns, self.split, self.limit = columns, relevance_columns, split, limit
        self.weight_column, self.label_column = weight_column, label_column
        self.num_positives = len(columns) - 1
        grades = [Column("data.relevance_columns", name) for name in relevance_columns or ()]
        if grades and len(grades) != self.num_positives:
            raise UserError(
                f"data.relevance_columns has {len(grades)} columns for {self.num_positives} positives\n"
                "fix: give one column for each positive, in the order of data.columns"
            )
        marks, extras = _marks(weight_column, label_column)
        asked = [*_columns(columns), *grades, *marks]
        source = read(path, asked, split)
        super().__init__(path, asked, _collect(source, limit=limit, extras=extras, grades=len(grades)))


class Triplets(Dataset):
    """Rows of an anchor, its positive and one or more hard negatives.

    If there are several columns of negatives, missing ones are left out, so rows may have unequal numbers of negatives.
    If there is one, it is left out where it is null (parquet, jsonl), and an empty cell is a missing cell.

    Args:
        path: The source of the rows; see the docstring of the module.
        columns: Names of anchor, positive, negative and further negatives; or numbers, as for `Pairs`.
        score_column: Name or number of the column with the similarity of anchor and positive, in [0, 1] (CLHAIF). None:
            rows have no scores.
        split: Split of a data set on the Hub.
        limit: Number of rows to keep. None: all.
        weight_column: Same as in `Texts`.
        label_column: Same as in `Texts`.

    Raises:
        UserError: An argument is out of range, the source cannot be read, a score is not a number in [0, 1], or a
            weight is not a number >= 0.
    """

    unit = "triplets"

    def __init__(
        self,
        path: str | Path | Sized,
        *,
        columns: Sequence[int | str] = ("premise", "entailment", "contradiction"),
        score_column: int | str | None = None,
        split: str = "train",
        limit: int | None = None,
        weight_column: int | str | None = None,
        label_column: int | str | None = None,
    ) -> None:
        self.columns, self.score_column, self.split, self.limit = columns, score_column, split, limit
        self.weight_column, self.label_column = weight_column, label_column
        asked, extras = _columns(columns, at_least=3), {}
        if score_column is not None:
            asked.append(Column("data.score_column", score_column))
            extras["score"] = partial(_score, low=0.0, high=1.0)
        marks, more = _marks(weight_column, label_column)
        asked += marks
        source = read(path, asked, split)
        super().__init__(path, asked, _collect(source, limit=limit, extras=extras | more, negatives=len(columns) - 2))


class ScoredPairs(Dataset):
    """Rows of two texts and their similarity; `Example.score` is (score - min_score) / (max_score - min_score).

    Args:
        path: The source of the rows; see the docstring of the module.
        columns: Two names, or two numbers in a csv or tsv file without a header.
        score_column: Name or number of the column of scores.
        min_score: The score of texts that have nothing in common (STS: 0, SICK-R: 1). None: the smallest of the rows.
        max_score: The score of texts with the same meaning (STS and SICK-R: 5). None: the largest of the rows.
        split: Split of a data set on the Hub.
        limit: Number of rows to keep. None: all.

    Raises:
        UserError: An argument is out of range, the source cannot be read, or a score is not a number in the range.
    """

    unit = "scored pairs"

    def __init__(
        self,
        path: str | Path | Sized,
        *,
        columns: Sequence[int | str] = ("sentence1", "sentence2"),
        score_column: int | str = "score",
        min_score: float | None = 0.0,
        max_score: float | None = 1.0,
        split: str = "train",
        limit: int | None = None,
    ) -> None:
        if min_score is not None and max_score is not None and not min_score < max_score:
            raise UserError(f"data.max_score is {max_score}\nfix: give a number > data.min_score, which is {min_score}")
        self.columns, self.score_column, self.split, self.limit = columns, score_column, split, limit
        self.min_score, self.max_score = min_score, max_score
        asked = [*_columns(columns, exactly=2), Column("data.score_column", score_column)]
        low, high = -math.inf if min_score is None else min_score, math.inf if max_score is None else max_score
        scored: dict[str, Parse] = {"score": partial(_score, low=low, high=high)}
        rows = _collect(read(path, asked, split), limit=limit, extras=scored)
        _rescale(rows.extras["score"], min_score, max_score)
        super().__init__(path, asked, rows)


def _collect(
    source: Iterable[Row],
    *,
    limit: int | None,
    wanted: Callable[[tuple[str, ...], dict[str, int]], bool] | None = None,
    extras: Mapping[str, Parse] | None = None,
    negatives: int = 0,
    grades: int = 0,
) -> _Rows:
    """Read rows up to the end or the limit. `extras` parse the last cells; before them are `grades` cells of relevance.

    Before those are `negatives` cells.
    """
    require_at_least(2, "data", limit=limit)
    parses = dict(extras or {})
    rows = _Rows(extras={name: [] for name in (*["relevance"][:grades], *parses)})
    seen: set[tuple[tuple[str, ...], tuple[Any, ...]]] = set()
    for row in source:
        last = len(row.cells) - len(parses)
        end = last - grades
        cells = [cell if cell is None else cell.strip() for cell in row.cells[:end]]
        if not any(cells):
            rows.report["blank"] += 1
            continue
        texts = _filled(cells, negatives)
        values: tuple[Any, ...] = tuple(
            parse(cell, row.place) for parse, cell in zip(parses.values(), row.cells[last:], strict=True)
        )
        if grades:
            values = (tuple(_amount("relevance_columns", cell, row.place) for cell in row.cells[end:last]), *values)
        if (texts, values) in seen:
            rows.report["duplicate"] += 1
        elif wanted is None or wanted(texts, rows.report):
            seen.add((texts, values))
            rows.report["missing"] += sum(not cell for cell in cells)
            rows.texts.append(texts)
            for name, value in zip(rows.extras, values, strict=True):
                rows.extras[name].append(value)
            if len(rows.texts) == limit:
                break
    rows.label_names = list(getattr(parses.get("label"), "known", ()))
    return rows


def _filled(cells: Sequence[str | None], negatives: int) -> tuple[str, ...]:
    """The texts of a row: a missing cell becomes one space; null negatives are left out, and empty ones of several."""
    kept = len(cells) - negatives
    return tuple(c or SPACE for i, c in enumerate(cells) if c or i < kept or (negatives == 1 and c is not None))


def _score(cell: str | None, place: str, low: float, high: float) -> float:
    value = _number(cell)
    if not low <= value <= high or math.isinf(value):
        raise UserError(
            f"data.score_column: {place} has the score {cell!r}, which must be a number in [{low:g}, {high:g}]\n"
            "fix: correct or remove that row, or set the scale: --data.min_score and --data.max_score"
        )
    return value


def _rescale(scores: list[float], low: float | None, high: float | None) -> None:
    """Map a scale to [0, 1]; an end that is not given is that of the scores. Equal scores become 0."""
    if scores:
        least, most = min(scores) if low is None else low, max(scores) if high is None else high
        scores[:] = [(score - least) / (most - least or 1.0) for score in scores]


def _marks(weight: int | str | None, label: int | str | None) -> tuple[list[Column], dict[str, Parse]]:
    """The columns of weights and labels that are asked for, and the functions that parse their cells."""
    chosen: dict[str, tuple[int | str | None, Parse]] = {"weight": (weight, _weight), "label": (label, _Labels())}
    columns = [Column(f"data.{name}_column", column) for name, (column, _) in chosen.items() if column is not None]
    return columns, {name: parse for name, (column, parse) in chosen.items() if column is not None}


def _weight(cell: str | None, place: str) -> float:
    return _amount("weight_column", cell, place)


def _amount(option: str, cell: str | None, place: str) -> float:
    value = _number(cell)
    if not 0 <= value < math.inf:
        what = option.partition("_")[0]
        raise UserError(
            f"data.{option}: {place} has the {what} {cell!r}, which must be a number >= 0\n"
            "fix: correct or remove that row"
        )
    return value


class _Labels:
    """Numbers labels in the order of their first occurrence."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {}

    def __call__(self, cell: str | None, place: str) -> int:
        if not (cell or "").strip():
            raise UserError(f"data.label_column: {place} has no label\nfix: give that row a label, or remove it")
        return self.known.setdefault(str(cell).strip(), len(self.known))


def _number(cell: str | None) -> float:
    try:
        return float(cell or "")
    except ValueError:
        return math.nan


def _columns(names: Sequence[int | str], *, exactly: int | None = None, at_least: int = 2) -> list[Column]:
    wrong = len(names) != exactly if exactly else len(names) < at_least
    if wrong or len(set(names)) < len(names):
        raise UserError(
            f"data.columns is {list(names)}\nfix: give {exactly or f'{at_least} or more'} different columns"
        )
    if len({type(name) for name in names}) > 1 or any(isinstance(n, int) and n < 0 for n in names):
        raise UserError(f"data.columns is {list(names)}\nfix: give names, or numbers from 0, not both")
    return [Column("data.columns", name) for name in names]


def _require_distinct(what: str, rows: _Rows) -> None:
    """Raise a UserError unless there are two different rows."""
    if len(rows.texts) > 1:
        return
    counts = ", ".join(f"{count} {kind}" for kind, count in rows.report.items() if count) or "it is empty"
    if not rows.texts:
        raise UserError(f"{what}: there is no text in it ({counts})\nfix: give rows with texts")
    why = "every row is the same" if rows.report["duplicate"] else "it has one row"
    raise UserError(
        f"{what}: {why}: {rows.texts[0][0][:60]!r}\nfix: give rows with different texts, since training contrasts them"
    )


def _hash(rows: _Rows) -> str:
    digest = hashlib.sha256()
    for texts in rows.texts:
        digest.update("\x1f".join(texts).encode() + b"\x1e")
    digest.update(repr(rows.extras.get("score", [])).encode())
    for name in ("weight", "label", "relevance"):
        if name in rows.extras:
            digest.update(f"{name}{rows.extras[name]}".encode())
    return digest.hexdigest()
