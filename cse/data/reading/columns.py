"""Recognizes what columns hold, by the names in use, and makes texts and numbers of their cells."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cse.data.reading.files import PARALLEL
from cse.data.reading.rows import Column, Lists, Reader, Row, number_fix, number_in
from cse.data.reading.store import Kept
from cse.errors import UserError, require_at_least

TEXT = (
    "text",
    "sentence",
    "sentences",
    "content",
    "document",
    "passage",
    "body",
    "query",
    "question",
    "title",
    "anchor",
)
PAIRS = (
    ("sentence1", "sentence2"),
    ("sentence_A", "sentence_B"),
    ("sentence_a", "sentence_b"),
    ("anchor", "positive"),
    ("query", "positive"),
    ("query", "pos"),
    ("query", "positive_passages"),
    ("question", "answer"),
    ("question", "answers"),
    ("query", "answer"),
    ("query", "document"),
    ("query", "passage"),
    ("question1", "question2"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("sent0", "sent1"),
    ("premise", "entailment"),
    ("premise", "hypothesis"),
    ("source", "target"),
    ("src", "tgt"),
    ("english", "non_english"),
    ("title", "abstract"),
    ("title", "body"),
    ("title", "text"),
)
SEVERAL = (("text", "paraphrase", "rewording"),)  # an anchor and positives
NUMBERED = (("anchor", "positive"), ("text", "query"), ("text", "rewrite"))  # query_1, query_2, ...
TRIPLETS = (
    ("premise", "entailment", "contradiction"),
    ("anchor", "positive", "negative"),
    ("query", "positive", "negative"),
    ("query", "pos", "neg"),
    ("query", "positive_passages", "negative_passages"),
    ("question", "positive", "negative"),
    ("sent0", "sent1", "hard_neg"),
)
SCORES = ("score", "similarity", "similarity_score", "relatedness_score", "gold_score", "label", "labels")
LABELS = ("label", "gold_label", "labels")
INFERENCE = (("premise", "hypothesis"), ("sentence1", "sentence2"))
CLASSES = {"entailment": 0, "0": 0, "neutral": 1, "1": 1, "contradiction": 2, "2": 2, "-1": -1, "-": -1, "": -1}


@dataclass(frozen=True, slots=True)
class Shape:
    """How rows are read from a source.

    Attributes:
        source: The source of the rows.
        texts: The columns of texts.
        said: What was recognized, in words; empty if the columns were named.
        names: The names of all columns of the source, if columns were recognized.
        saved: The columns that hold the texts in the source itself, if it was rearranged.
    """

    source: Reader
    texts: list[Column]
    said: str = ""
    names: tuple[str, ...] = ()
    saved: tuple[Column, ...] = ()


def of_texts(source: Reader, column: int | str | None) -> Shape:
    """The column of single texts."""
    names = source.names() if column is None else None
    if names is None:
        return Shape(source, [Column("data.column", "text" if column is None else column)])
    found = next((name for name in TEXT if name in names), None)
    if found is None:
        return Shape(source, [Column("data.column", "text")])  # whose absence is then an error
    return Shape(source, [Column("data.column", found)], f"text = {found}", tuple(names))


def of_pairs(source: Reader, columns: Sequence[int | str] | None, *, lists: bool = True) -> Shape:
    """The columns of an anchor and its positives, or of two texts to compare (without `lists`)."""
    names = source.names() if columns is None else None
    if names is None:
        given = PAIRS[0] if columns is None else columns
        return _named(source, given, "", lists and len(given) == 2)
    labels = next((name for name in LABELS if name in names), None)
    if lists and labels and {"premise", "hypothesis"} <= set(names) and PAIRS[0][0] not in names:
        return _inference(source, INFERENCE[0], labels, with_contradiction=False)
    found: Sequence[str] | None = next((pair for pair in PAIRS if set(pair) <= set(names)), None)
    if found is None and lists and (several := _several(names)):
        said = f"anchor = {several[0]}, positives = {', '.join(several[1:])}"
        return _named(source, several, said, False, names)
    languages = [name for name in names if name.startswith(f"{PARALLEL}.")]
    if found is None and len(languages) > 2:
        raise UserError(
            f"data.columns: {source.what} has texts in {len(languages)} languages: {', '.join(languages[:12])}\n"
            f"fix: name two of them: --data.columns=[{languages[0]},{languages[1]}]"
        )
    if found is None and len(languages) == 2:
        found = (languages[0], languages[1])
    if found is None:
        return _named(source, PAIRS[0], "", lists)
    return _named(source, found, f"anchor = {found[0]}, positive = {found[1]}", lists, names)


def _several(names: Sequence[str]) -> tuple[str, ...]:
    """The columns of an anchor and several positives; none if they are not recognized."""
    for columns in SEVERAL:
        if set(columns) <= set(names):
            return columns
    for anchor, positive in NUMBERED:
        numbered = [name for name in names if re.fullmatch(rf"{positive}_\d+", name)]
        if anchor in names and numbered:
            return (anchor, *numbered)
    return ()


def of_triplets(source: Reader, columns: Sequence[int | str] | None, *, lists: bool = True) -> Shape:
    """The columns of an anchor, its positive and its hard negatives, which may be lists unless `lists` is False."""
    names = source.names() if columns is None else None
    if names is None:
        return _named(source, TRIPLETS[0] if columns is None else columns, "", lists)
    for anchor, positive, negative in TRIPLETS:
        numbered = [name for name in names if re.fullmatch(rf"{negative}_?\d+", name)]
        negatives = [*([negative] if negative in names else []), *numbered]
        if anchor in names and positive in names and negatives:
            found = (anchor, positive, *negatives)
            said = f"anchor = {anchor}, positive = {positive}, negatives = {', '.join(negatives)}"
            return _named(source, found, said, lists, names)
    labels = next((name for name in LABELS if name in names), None)
    pair = next((pair for pair in INFERENCE if set(pair) <= set(names)), None)
    if labels and pair:
        return _inference(source, pair, labels, with_contradiction=True)
    return _named(source, TRIPLETS[0], "", lists)


def score_column_of(source: Reader, column: int | str | None) -> Column:
    """The column of scores."""
    names = (source.names() or []) if column is None else []
    found = next((name for name in SCORES if name in names), "score")
    return Column("data.score_column", found if column is None else column)


def _named(source: Reader, names: Sequence[int | str], said: str, lists: bool, every: Sequence[str] = ()) -> Shape:
    """Columns of known names. A list of positives is allowed where there is one column of them."""
    kinds: tuple[Lists, Lists, Lists] = ("", "positives", "negatives") if lists else ("", "", "")
    return Shape(
        source, [Column("data.columns", name, kinds[min(i, 2)]) for i, name in enumerate(names)], said, tuple(every)
    )


def described(shape: Shape, values: Sequence[Column]) -> str:
    """What was recognized, with the columns of values that are read and those that are not; empty if nothing was."""
    if not shape.said:
        return ""
    said = [shape.said, *(f"{c.field.removeprefix('data.').partition('_')[0]} = {c.name}" for c in values)]
    read = {str(column.name) for column in (*shape.texts, *values)} | {PARALLEL}
    rest = ", ".join(name for name in shape.names if name not in read and not name.startswith(f"{PARALLEL}."))
    return ", ".join(said) + (f"; not used: {rest}"[:160] if rest else "")


# -- Natural language inference: a label for each premise and hypothesis ----------------------------------------------


def _inference(source: Reader, pair: tuple[str, str], label: str, *, with_contradiction: bool) -> Shape:
    read = (Column("data.columns", pair[0]), Column("data.columns", pair[1]), Column("data.columns", label))
    names = ["premise", "entailment", *(["contradiction"] if with_contradiction else [])]
    said = f"anchor = {pair[0]}, positive = {pair[1]} where {label} is entailment"
    said += ", negative = where it is contradiction" if with_contradiction else ""
    rows = _Inference(source, read, names)
    return Shape(rows, [Column("data.columns", name) for name in names], said, saved=read)


class _Inference(Reader):
    """Rows of premise, entailment and contradiction, from rows of premise, hypothesis and label (SimCSE, section 4.1).

    The entailments of a premise are paired with its contradictions in their order, which start again if there are
    fewer. Hypotheses that find no partner are left out, and the texts of one source are held in memory meanwhile.
    """

    def __init__(self, source: Reader, columns: tuple[Column, Column, Column], names: list[str]) -> None:
        self.what, self._source, self._columns, self._names = source.what, source, columns, names

    def names(self) -> list[str]:
        """The columns of the rearranged rows."""
        return self._names

    def key(self) -> str | None:
        """The key of the source, and how it is read."""
        key = self._source.key()
        return None if key is None else f"inference {key} {[column.name for column in self._columns]} {self._names}"

    def read(self, columns: Sequence[Column]) -> Iterator[Row]:
        """The rows in the order of the first occurrence of their premises."""
        wanted = [str(column.name) for column in columns]
        for name in wanted:
            if name not in self._names:
                raise UserError(
                    f"data: rows by label have no column {name!r}; they have {', '.join(self._names)}\n"
                    "fix: name the columns (data.columns), or omit this one"
                )
        groups: dict[str, tuple[list[Row], list[Row]]] = {}
        for row in self._source.read(self._columns):
            premise, hypothesis, label = ((cell or "").strip() for cell in row.cells)
            if not premise or not hypothesis:
                yield Row((None,) * len(columns), row.place)
                continue
            kind = self._kind(label, row.place)
            if kind in {-1, 1}:
                yield Row((), row.place, skip="neutral" if kind == 1 else "no_label")
                continue
            groups.setdefault(premise, ([], []))[kind // 2].append(Row((hypothesis,), row.place))
        for premise, (entailed, contradicted) in groups.items():
            if len(wanted) == 2:
                yield from (Row((premise, *row.cells), row.place) for row in entailed)
                used = 0
            else:
                used = min(len(entailed), len(contradicted))
                for i, row in enumerate(entailed if contradicted else ()):
                    yield Row((premise, *row.cells, *contradicted[i % len(contradicted)].cells), row.place)
                yield from (Row((), row.place, skip="unpaired") for row in (entailed if not contradicted else ()))
            yield from (Row((), row.place, skip="unpaired") for row in contradicted[used:])

    def _kind(self, label: str, place: str) -> int:
        kind = CLASSES.get(label.lower().removesuffix(".0"))
        if kind is None:
            raise UserError(
                f"data: {place} has the label {label!r} in column {self._columns[2].name!r}, which is not that of an "
                "inference\nfix: give entailment, neutral or contradiction (0, 1, 2), or name the columns: data.columns"
            )
        return kind


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
