"""What the cells of a row become: texts, scores, weights, labels, relevances, numbers of a teacher."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cse.data.rows import Column, number_fix, number_in
from cse.data.shapes import Shape
from cse.data.store import Kept
from cse.errors import UserError, require_at_least

SPACE = " "
LARGEST = float(np.finfo(np.float32).max)  # of a number of a teacher
Cells = Sequence[str | None]
Parse = Callable[[str | None, str], float]  # from a cell and its place to a number
ParseSpans = Callable[[Cells, Cells, str], str]  # from the cells of spans and of texts, and their place, to JSON


@dataclass(slots=True)
class Parsing:
    """What the cells of a row become.

    Attributes:
        required: Number of texts that a row has at least; those after them are hard negatives.
        limit: Number of rows to keep. None: all.
        options: Arguments of the data class that change which rows it keeps.
        verdict: A function that says why a row is left out; empty for a row to keep.
        keeps_empty: Whether an empty cell of a hard negative is a missing cell rather than no negative.
        keeps_places: Whether a missing hard negative keeps its place, as an empty text.
        scale: The scores that become 0 and 1; None for the smallest or largest one.
        columns: The columns of values, after those of texts.
        parses: A parser for each column, made by a function of the names of labels, which grow.
        names: The names of the values of a row.
        grades: Number of columns of relevance, the first ones.
        teachers: Number of columns of a teacher's numbers, after those of relevance.
        spanned: Number of columns of the spans of the texts, after those of a teacher.
        parse_spans: The parser of these columns.
    """

    required: int
    limit: int | None = None
    options: tuple[Any, ...] = ()
    verdict: Callable[[tuple[str, ...]], str] | None = None
    keeps_empty: bool = False
    keeps_places: bool = False
    scale: tuple[float | None, float | None] = (0.0, 1.0)
    columns: list[Column] = field(default_factory=list)
    parses: list[Callable[[list[str]], Parse]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    grades: int = 0
    teachers: int = 0
    spanned: int = 0
    parse_spans: ParseSpans | None = None

    def __post_init__(self) -> None:
        require_at_least(2, "data", limit=self.limit)

    @property
    def key(self) -> str:
        """A text that differs for other rows of the same source."""
        return repr(
            (
                self.required,
                self.limit,
                self.options,
                self.scale,
                self.keeps_empty,
                self.keeps_places,
                self.columns,
                self.names,
                self.grades,
            )
        )

    def add(self, name: str, column: Column, parse: Parse) -> None:
        """Read a value from a column."""
        self.names.append(name)
        self.columns.append(column)
        self.parses.append(lambda labels: parse)

    def grade(self, columns: list[Column]) -> None:
        """Read a relevance for each positive; this comes before other values."""
        self.grades = len(columns)
        self.names.append("relevance")
        self.columns += columns

    def teach(self, columns: Sequence[int | str] | None) -> None:
        """Read a teacher's numbers from their columns, if they are asked for; this comes before all but relevances."""
        if columns:
            self.teachers = len(columns)
            self.names.append("teacher")
            self.columns += [Column("data.teacher_columns", name, "numbers") for name in columns]

    def span(self, columns: Sequence[Column], parse: ParseSpans) -> None:
        """Read the spans of the texts from their columns; this comes before all but relevances and teachers."""
        self.spanned, self.parse_spans = len(columns), parse
        self.names.append("spans")
        self.columns += columns

    def mark(self, weight: int | str | None, label: int | str | None) -> None:
        """Read weights and labels from their columns, if they are asked for."""
        if weight is not None:
            self.add("weight", Column("data.weight_column", weight), partial(_amount, "weight_column"))
        if label is not None:
            self.names.append("label")
            self.columns.append(Column("data.label_column", label))
            self.parses.append(_Labels)


def kept_rows(shape: Shape, parsing: Parsing, report: dict[str, int], labels: list[str]) -> Iterator[Kept]:
    """The rows to keep, repeated ones included; `report` counts the others, and `labels` gets the names of labels."""
    parses, grades = [make(labels) for make in parsing.parses], parsing.grades
    taught = _Taught()
    for row in shape.source.read([*shape.texts, *parsing.columns]):
        if row.skip:
            report[row.skip] = report.get(row.skip, 0) + 1
            continue
        last = len(row.cells) - len(parses)
        behind = last - parsing.spanned
        middle = behind - parsing.teachers
        end = middle - grades
        cells = [cell if cell is None else cell.strip() for cell in row.cells[:end]]
        if not any(cells):
            report["blank"] += 1
            continue
        texts = _filled(cells, parsing)
        values: list[Any] = [parse(cell, row.place) for parse, cell in zip(parses, row.cells[last:], strict=True)]
        if parsing.parse_spans is not None:
            values.insert(0, parsing.parse_spans(row.cells[behind:last], row.cells[:end], row.place))
        if parsing.teachers:
            values.insert(0, taught(row.cells[middle:behind], row.place))
        if grades:
            values.insert(0, tuple(_amount("relevance_columns", cell, row.place) for cell in row.cells[end:middle]))
        reason = parsing.verdict(texts) if parsing.verdict else ""
        if reason:
            report[reason] = report.get(reason, 0) + 1
        else:
            yield Kept(texts, tuple(values), sum(not cell for cell in cells) + row.dropped)


def _filled(cells: Sequence[str | None], parsing: Parsing) -> tuple[str, ...]:
    """The texts of a row: a missing cell becomes one space; missing negatives are left out or keep their place."""
    required, keeps = parsing.required, parsing.keeps_empty
    if parsing.keeps_places:
        return tuple([c or (SPACE if i < required else "") for i, c in enumerate(cells)])
    return tuple([c or SPACE for i, c in enumerate(cells) if c or i < required or (keeps and c is not None)])


def score_within(cell: str | None, place: str, low: float, high: float) -> float:
    """A score on its own scale.

    Raises:
        UserError: The cell is not a number in [low, high].
    """
    value = number_in(cell)
    if not low <= value <= high or math.isinf(value):
        bounds = "" if math.isinf(high - low) else f" in [{low:g}, {high:g}]"
        scale = ", or set the scale: --data.min_score and --data.max_score" if bounds and math.isfinite(value) else ""
        raise UserError(
            f"data.score_column: {place} has the score {cell!r}, which must be a number{bounds}\n"
            f"fix: {number_fix(cell)}{scale}"
        )
    return value


def _amount(option: str, cell: str | None, place: str) -> float:
    value = number_in(cell)
    if not 0 <= value < math.inf:
        what = option.partition("_")[0]
        raise UserError(
            f"data.{option}: {place} has the {what} {cell!r}, which must be a number >= 0\nfix: {number_fix(cell)}"
        )
    return value


class _Labels:
    """Numbers labels in the order of their first occurrence."""

    def __init__(self, names: list[str]) -> None:
        self.names, self.known = names, dict[str, int]()

    def __call__(self, cell: str | None, place: str) -> int:
        if not (cell or "").strip():
            raise UserError(f"data.label_column: {place} has no label\nfix: give that row a label, or remove it")
        name = str(cell).strip()
        if name not in self.known:
            self.known[name] = len(self.names)
            self.names.append(name)
        return self.known[name]


class _Taught:
    """Reads the numbers of a teacher, as many in each row as in the first."""

    def __init__(self) -> None:
        self.width: int | None = None

    def __call__(self, cells: Sequence[str | None], place: str) -> NDArray[np.float32]:
        for cell in cells:
            if not (cell or "").strip():
                raise UserError(
                    f"data.teacher_columns: {place} has no number of the teacher\nfix: give one, or remove that row"
                )
        parts = " ".join((cell or "").strip().strip("[]") for cell in cells).replace(",", " ").split()
        numbers = np.array([number_in(part) for part in parts])
        if not (np.abs(numbers) <= LARGEST).all():
            wrong = next(p for p in parts if not abs(number_in(p)) <= LARGEST)
            raise UserError(
                f"data.teacher_columns: {place} has {wrong!r}, which must be a finite number\nfix: {number_fix(wrong)}"
            )
        if len(numbers) != (self.width or len(numbers)):
            raise UserError(
                f"data.teacher_columns: {place} has {len(numbers)} numbers, and the rows before it have {self.width}\n"
                "fix: give every row the same number of them"
            )
        self.width = len(numbers)
        return numbers.astype(np.float32)
