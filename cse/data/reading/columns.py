"""Recognizes what columns hold, by the names in use, and makes texts and values of their cells."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cse.data.reading.files import PARALLEL
from cse.data.reading.rows import Column, Lists, Reader, Row, number_fix, number_in
from cse.data.reading.store import Kept
from cse.errors import UserError, require_at_least

_TEXT = "text sentence sentences content document passage body query question title anchor"
_PAIRS = """
    sentence1 sentence2, sentence_A sentence_B, sentence_a sentence_b, anchor positive, query positive, query pos,
    query positive_passages, question answer, question answers, query answer, query document, query passage,
    question1 question2, text1 text2, text_a text_b, sent0 sent1, premise entailment, premise hypothesis, source target,
    src tgt, english non_english, title abstract, title body, title text
"""
_TRIPLETS = """
    premise entailment contradiction, anchor positive negative, query positive negative, query pos neg,
    query positive_passages negative_passages, question positive negative, sent0 sent1 hard_neg
"""
TEXT = tuple(_TEXT.split())
PAIRS = [tuple(names.split()) for names in _PAIRS.split(",")]
TRIPLETS = [tuple(names.split()) for names in _TRIPLETS.split(",")]
SEVERAL = ("text", "paraphrase", "rewording")  # an anchor and positives
NUMBERED = (("anchor", "positive"), ("text", "query"), ("text", "rewrite"))  # query_1, query_2, ...
SCORES = ("score", "similarity", "similarity_score", "relatedness_score", "gold_score", "label", "labels")
LABELS = ("label", "gold_label", "labels")
INFERENCE = (("premise", "hypothesis"), ("sentence1", "sentence2"))
CLASSES = {"entailment": 0, "0": 0, "neutral": 1, "1": 1, "contradiction": 2, "2": 2, "-1": -1, "-": -1, "": -1}
NUMERIC = {name for name in CLASSES if name.lstrip("-").isdecimal()} | {"", "-"}  # classes that may also be scores

SPACE = " "
LARGEST = float(np.finfo(np.float32).max)  # of a number of a teacher
Cells = Sequence[str | None]


@dataclass(frozen=True, slots=True)
class Shape:
    """The columns of texts of a source.

    Attributes:
        said: What was recognized, in words; empty if the columns were named.
        names: The names of all columns of the source, if columns were recognized.
        saved: The columns that hold the texts in the source itself, if it was rearranged.
    """

    source: Reader
    texts: list[Column]
    said: str = ""
    names: tuple[str, ...] = ()
    saved: tuple[Column, ...] = ()


@dataclass(frozen=True, slots=True)
class Known:
    """Hold what the columns of a source are, by name: columns in words, or names; empty for what they lack.

    `pair` are two texts that are compared, `pairs` an anchor and its positives, which may be lists or rows by label.
    """

    names: list[str]
    text: str
    pair: str
    pairs: str
    triplet: str
    score: str
    label: str


def recognize(source: Reader) -> Known:
    """Recognize what the columns hold; texts in more than two languages are an error, since two have to be named."""
    names = source.names() or []
    score, label = (next((name for name in usual if name in names), "") for usual in (SCORES, LABELS))
    pair, pairs = (of_pairs(source, None, lists=lists).said for lists in (False, True))
    return Known(names, of_texts(source, None).said, pair, pairs, of_triplets(source, None).said, score, label)


def of_texts(source: Reader, column: int | str | None) -> Shape:
    """Find the column of single texts."""
    names = source.names() if column is None else None
    found = next((name for name in TEXT if name in (names or ())), None)
    if names is None or found is None:  # the absence of "text" is then an error
        return Shape(source, [Column("data.column", "text" if column is None else column)])
    return Shape(source, [Column("data.column", found)], f"text = {found}", tuple(names))


def of_pairs(source: Reader, columns: Sequence[int | str] | None, *, lists: bool = True) -> Shape:
    """Find the columns of an anchor and its positives, or of two texts to compare (without `lists`)."""
    names = source.names() if columns is None else None
    if names is None:
        given = PAIRS[0] if columns is None else columns
        return _named(source, given, "", lists and len(given) == 2)
    label = next((name for name in LABELS if name in names), None)
    if lists and label and set(INFERENCE[0]) <= set(names) and PAIRS[0][0] not in names:
        return _inference(source, INFERENCE[0], label, with_contradiction=False)
    found = next((pair for pair in PAIRS if set(pair) <= set(names)), None)
    if found is None and lists and (several := _several(names)):
        said = f"anchor = {several[0]}, positives = {', '.join(several[1:])}"
        return _named(source, several, said, False, names)
    languages = [name for name in names if name.startswith(f"{PARALLEL}.")]
    if found is None and len(languages) > 2:
        raise UserError(
            f"data.columns: {source.what} has texts in {len(languages)} languages: {', '.join(languages[:12])}\n"
            f"fix: name two of them: --data.columns=[{languages[0]},{languages[1]}]"
        )
    found = found or (tuple(languages) if len(languages) == 2 else None)
    if found is None:
        return _named(source, PAIRS[0], "", lists)
    return _named(source, found, f"anchor = {found[0]}, positive = {found[1]}", lists, names)


def _several(names: Sequence[str]) -> tuple[str, ...]:
    """Find the columns of an anchor and several positives; none if they are not recognized."""
    if set(SEVERAL) <= set(names):
        return SEVERAL
    for anchor, positive in NUMBERED:
        numbered = [name for name in names if re.fullmatch(rf"{positive}_\d+", name)]
        if anchor in names and numbered:
            return (anchor, *numbered)
    return ()


def of_triplets(source: Reader, columns: Sequence[int | str] | None, *, lists: bool = True) -> Shape:
    """Find the columns of an anchor, its positive and hard negatives, which may be lists unless `lists` is False."""
    names = source.names() if columns is None else None
    if names is None:
        return _named(source, TRIPLETS[0] if columns is None else columns, "", lists)
    for anchor, positive, negative in TRIPLETS:
        numbered = [name for name in names if re.fullmatch(rf"{negative}_?\d+", name)]
        negatives = [*([negative] if negative in names else []), *numbered]
        if anchor in names and positive in names and negatives:
            said = f"anchor = {anchor}, positive = {positive}, negatives = {', '.join(negatives)}"
            return _named(source, (anchor, positive, *negatives), said, lists, names)
    label = next((name for name in LABELS if name in names), None)
    pair = next((pair for pair in INFERENCE if set(pair) <= set(names)), None)
    if label and pair:
        return _inference(source, pair, label, with_contradiction=True)
    return _named(source, TRIPLETS[0], "", lists)


def score_column_of(source: Reader, column: int | str | None) -> Column:
    """Find the column of scores."""
    names = (source.names() or []) if column is None else []
    found = next((name for name in SCORES if name in names), "score")
    return Column("data.score_column", found if column is None else column)


def _named(source: Reader, names: Sequence[int | str], said: str, lists: bool, every: Sequence[str] = ()) -> Shape:
    """Take columns of known names. A list of positives is allowed where there is one column of them."""
    kinds: tuple[Lists, Lists, Lists] = ("", "positives", "negatives") if lists else ("", "", "")
    columns = [Column("data.columns", name, kinds[min(i, 2)]) for i, name in enumerate(names)]
    return Shape(source, columns, said, tuple(every))


def described(shape: Shape, values: Sequence[Column]) -> str:
    """Say what was recognized, with the columns of values that are read and those that are not; nothing if named."""
    if not shape.said:
        return ""
    said = [shape.said, *(f"{c.field.removeprefix('data.').partition('_')[0]} = {c.name}" for c in values)]
    read = {str(column.name) for column in (*shape.texts, *values)} | {PARALLEL}
    rest = ", ".join(name for name in shape.names if name not in read and not name.startswith(f"{PARALLEL}."))
    return ", ".join(said) + (f"; not used: {rest}"[:160] if rest else "")


# -- Natural language inference: a label for each premise and hypothesis ----------------------------------------------


def _inference(source: Reader, pair: tuple[str, ...], label: str, *, with_contradiction: bool) -> Shape:
    read = tuple(Column("data.columns", name) for name in (*pair, label))
    names = ["premise", "entailment", *(["contradiction"] if with_contradiction else [])]
    said = f"anchor = {pair[0]}, positive = {pair[1]} where {label} is entailment"
    said += ", negative = where it is contradiction" if with_contradiction else ""
    return Shape(_Inference(source, read, names), [Column("data.columns", name) for name in names], said, saved=read)


class _Inference(Reader):
    """Rows of premise, entailment and contradiction, from rows of premise, hypothesis and label (SimCSE, section 4.1).

    The entailments of a premise are paired with its contradictions in their order, which start again if there are
    fewer. Hypotheses that find no partner are left out, and the texts of one source are held in memory meanwhile.
    """

    def __init__(self, source: Reader, columns: tuple[Column, ...], names: list[str]) -> None:
        self.what, self._source, self._columns, self._names = source.what, source, columns, names

    def names(self) -> list[str]:
        """List the columns of the rearranged rows."""
        return self._names

    def key(self) -> str | None:
        """Name the source, and how it is read."""
        key = self._source.key()
        return None if key is None else f"inference {key} {[column.name for column in self._columns]} {self._names}"

    def read(self, columns: Sequence[Column]) -> Iterator[Row]:
        """Read the rows in the order of the first occurrence of their premises."""
        for name in (str(column.name) for column in columns):
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
            used = 0
            if len(columns) == 2:
                yield from (Row((premise, *row.cells), row.place) for row in entailed)
            elif contradicted:
                used = min(len(entailed), len(contradicted))
                for i, row in enumerate(entailed):
                    yield Row((premise, *row.cells, *contradicted[i % len(contradicted)].cells), row.place)
            else:
                yield from (Row((), row.place, skip="unpaired") for row in entailed)
            yield from (Row((), row.place, skip="unpaired") for row in contradicted[used:])

    def _kind(self, label: str, place: str) -> int:
        kind = CLASSES.get(label.lower().removesuffix(".0"))
        if kind is None:
            raise UserError(
                f"data: {place} has the label {label!r} in column {self._columns[2].name!r}, which is not that of an "
                "inference\nfix: give entailment, neutral or contradiction (0, 1, 2), or name the columns: data.columns"
            )
        return kind


# -- Values: what the cells beside the texts become -------------------------------------------------------------------


class Value(NamedTuple):
    """A value of a row.

    Attributes:
        name: Its name in `Example`.
        columns: The columns that it is read from.
        parser: A function of the names of labels, which grow, that makes a parser for one pass over the rows: a
            function of the cells of the columns, the cells of the texts, and the place of the row.
    """

    name: str
    columns: tuple[Column, ...]
    parser: Callable[[list[str]], Callable[[Cells, Cells, str], Any]]


Names = Sequence[int | str] | None


def values_of(
    *,
    relevance: Names = None,
    teacher: Names = None,
    score: tuple[Column, float, float] | None = None,
    weight: int | str | None = None,
    label: int | str | None = None,
) -> list[Value]:
    """List the values to read, as they are written; a score is its column, the least and the largest one."""
    found = []
    if relevance:
        columns = tuple(Column("data.relevance_columns", name) for name in relevance)
        found.append(Value("relevance", columns, lambda _: partial(_amounts, "relevance_columns")))
    if teacher:
        columns = tuple(Column("data.teacher_columns", name, "numbers") for name in teacher)
        found.append(Value("teacher", columns, lambda _: _Taught()))
    if score is not None:
        found.append(Value("score", score[:1], lambda _: partial(_score, score[1], score[2])))
    if weight is not None:
        weights = lambda cells, texts, place: _amounts("weight_column", cells, texts, place)[0]  # noqa: E731
        found.append(Value("weight", (Column("data.weight_column", weight),), lambda _: weights))
    if label is not None:
        found.append(Value("label", (Column("data.label_column", label),), _Labels))
    return found


@dataclass(slots=True)
class Parsing:
    """Name the columns of a source by what their cells become.

    Attributes:
        required: Number of texts that a row has at least; those after them are hard negatives.
        limit: Number of rows to keep. None: all.
        values: The values of a row.
        options: Arguments of the data class that change which rows it keeps.
        verdict: A function that says why a row is left out; empty for a row to keep.
        keeps_empty: Whether an empty cell of a hard negative is a missing cell rather than no negative.
        keeps_places: Whether a missing hard negative keeps its place, as an empty text.
        scale: The scores that become 0 and 1; None for the smallest or largest one.
    """

    required: int
    limit: int | None = None
    values: list[Value] = field(default_factory=list)
    options: tuple[Any, ...] = ()
    verdict: Callable[[tuple[str, ...]], str] | None = None
    keeps_empty: bool = False
    keeps_places: bool = False
    scale: tuple[float | None, float | None] = (0.0, 1.0)

    def __post_init__(self) -> None:
        require_at_least(2, "data", limit=self.limit)

    @property
    def columns(self) -> list[Column]:
        """The columns of values, which are read after those of texts."""
        return [column for value in self.values for column in value.columns]

    @property
    def key(self) -> str:
        """A text that differs for other rows of the same source."""
        values = [(value.name, value.columns) for value in self.values]
        rules = (self.options, self.scale, self.keeps_empty, self.keeps_places)
        return repr((self.required, self.limit, rules, values))

    def filled(self, cells: Cells) -> tuple[str, ...]:
        """Make the texts of a row: a missing cell is one space; missing negatives are left out or keep their place."""
        required, keeps = self.required, self.keeps_empty
        if self.keeps_places:
            return tuple([c or (SPACE if i < required else "") for i, c in enumerate(cells)])
        return tuple([c or SPACE for i, c in enumerate(cells) if c or i < required or (keeps and c is not None)])


def kept_rows(shape: Shape, parsing: Parsing, report: dict[str, int], labels: list[str]) -> Iterator[Kept]:
    """Read the rows to keep, repeated ones too; `report` counts the others, and `labels` gets the names of labels."""
    parsers = [(value.parser(labels), len(value.columns)) for value in parsing.values]
    beside = len(parsing.columns)
    for row in shape.source.read([*shape.texts, *parsing.columns]):
        if row.skip:
            report[row.skip] = report.get(row.skip, 0) + 1
            continue
        at = len(row.cells) - beside
        given, values = row.cells[:at], []
        cells = [cell if cell is None else cell.strip() for cell in given]
        if not any(cells):
            report["blank"] += 1
            continue
        for parse, width in parsers:
            values.append(parse(row.cells[at : at + width], given, row.place))
            at += width
        texts = parsing.filled(cells)
        reason = parsing.verdict(texts) if parsing.verdict else ""
        if reason:
            report[reason] = report.get(reason, 0) + 1
        else:
            yield Kept(texts, tuple(values), sum(not cell for cell in cells) + row.dropped)


def _score(low: float, high: float, cells: Cells, texts: Cells, place: str) -> float:
    """Read a score in [low, high], on its own scale."""
    value = number_in(cells[0])
    if not low <= value <= high or math.isinf(value):
        bounds = "" if math.isinf(high - low) else f" in [{low:g}, {high:g}]"
        scale = ", or set the scale: --data.min_score and --data.max_score" if bounds and math.isfinite(value) else ""
        raise UserError(
            f"data.score_column: {place} has the score {cells[0]!r}, which must be a number{bounds}\n"
            f"fix: {number_fix(cells[0])}{scale}"
        )
    return value


def _amounts(option: str, cells: Cells, texts: Cells, place: str) -> tuple[float, ...]:
    """Read numbers >= 0."""
    for cell in cells:
        if not 0 <= number_in(cell) < math.inf:
            what = option.partition("_")[0]
            raise UserError(
                f"data.{option}: {place} has the {what} {cell!r}, which must be a number >= 0\nfix: {number_fix(cell)}"
            )
    return tuple(map(number_in, cells))


class _Labels:
    """Numbers labels in the order of their first occurrence."""

    def __init__(self, names: list[str]) -> None:
        self.names, self.known = names, dict[str, int]()

    def __call__(self, cells: Cells, texts: Cells, place: str) -> int:
        name = (cells[0] or "").strip()
        if not name:
            raise UserError(f"data.label_column: {place} has no label\nfix: give that row a label, or remove it")
        if name not in self.known:
            self.known[name] = len(self.names)
            self.names.append(name)
        return self.known[name]


class _Taught:
    """Reads the numbers of a teacher, as many in each row as in the first."""

    def __init__(self) -> None:
        self.width: int | None = None

    def __call__(self, cells: Cells, texts: Cells, place: str) -> NDArray[np.float32]:
        if not all((cell or "").strip() for cell in cells):
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
