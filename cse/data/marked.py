"""Rows about parts of texts: spans of documents, and sentences whose propositions are marked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence, Sized
from pathlib import Path
from typing import Any, Literal

from cse.batch import Example, TextSpans
from cse.data.datasets import Dataset
from cse.data.reading.columns import Cells, Parsing, Shape, Value, of_pairs, of_texts, values_of
from cse.data.reading.files import FileReader, kind
from cse.data.reading.memory import open_source
from cse.data.reading.rows import Column, Reader, Row
from cse.errors import UserError, require_at_least
from cse.seeding import python_rng

Context = Literal["neighbor", "overlap", "random"]
CONTEXTS: tuple[Context, ...] = ("neighbor", "overlap", "random")
LONGEST = 100_000  # words of a document that are in memory at once; a longer one is read as several


class Documents(Dataset):
    """Rows of a span and its contexts: other spans of its document, as positives (CoT-MAE).

    Documents are cut once, into spans of `words` words; a rest of less than half of that is left out, and so is a
    document of one span. The contexts of a span are its neighbor (the next span; of the last one the span before), a
    span that overlaps with half of it, and a random other one. `cse.data.TextViews` with `sample: 1` draws one of them
    at each visit, and `cse.data.BothWays` lets each of the two rebuild the other.

    Args:
        path: The source of the documents. In a .txt file, blank lines separate them; a file without blank lines is one.
            In every other source a row is one.
        column: Same as in `Texts`.
        split: Split of a data set on the Hub.
        words: Number of words of a span, >= 2.
        contexts: The contexts of a row, in their order: neighbor, overlap, random. A document of two spans has no
            random one, and an empty text in its place.
        limit: Number of spans to keep. None: all.

    Deviations:
        The authors of CoT-MAE cut after sentences. Their program then cuts long spans to its length twice, once for
        the tokens and once for the mask; a text that is longer than `max_length` is cut once here.
    """

    unit = "spans"

    def __init__(
        self,
        path: str | Path | Sized,
        *,
        column: int | str | None = None,
        split: str = "train",
        words: int = 96,
        contexts: Sequence[Context] = CONTEXTS,
        limit: int | None = None,
    ) -> None:
        require_at_least(2, "data", words=words)
        if not contexts or len(set(contexts)) < len(contexts):
            raise UserError(f"data.contexts is {list(contexts)}\nfix: give one or more of {', '.join(CONTEXTS)}, once")
        self.column, self.split, self.words, self.contexts, self.limit = column, split, words, list(contexts), limit
        self.num_positives = len(contexts)
        whole = of_texts(open_source(path, split), column)
        spans = _Spans(whole, words)
        columns = [Column("data.contexts", name) for name in ("span", *contexts)]
        super().__init__(
            path, Shape(spans, columns, whole.said, whole.names, tuple(whole.texts)), Parsing(len(columns), limit)
        )


class _Spans(Reader):
    """Rows of spans and contexts, from rows of documents, or of their lines."""

    def __init__(self, whole: Shape, words: int) -> None:
        self.what, self._source, self._columns, self._words = whole.source.what, whole.source, whole.texts, words
        self._lines = isinstance(self._source, FileReader) and kind(self._source.files[0]) == ".txt"

    def names(self) -> list[str]:
        """The columns of a row."""
        return ["span", *CONTEXTS]

    def key(self) -> str | None:
        """The key of the source, and how it is read."""
        key = self._source.key()
        return None if key is None else f"spans {key} {[column.name for column in self._columns]} {self._words}"

    def read(self, columns: Sequence[Column]) -> Iterator[Row]:
        """The rows, document by document."""
        for number, (place, words) in enumerate(self._documents()):
            starts = range(0, max(1, len(words) - self._words // 2 + 1), self._words)
            if len(starts) < 2:
                yield Row((), place, skip="single_span")
                continue
            for i in range(len(starts)):
                found = self._row(words, starts, i, number)
                yield Row(tuple([found[str(column.name)] for column in columns]), place)

    def _row(self, words: Sequence[str], starts: Sequence[int], i: int, document: int) -> dict[str, str | None]:
        """A span and its contexts by name."""
        last = len(starts) - 1
        half = self._words // 2 if i < last else -(self._words // 2)
        neighbor = i + 1 if i < last else i - 1
        three = python_rng("span", document, i).sample(starts, min(3, len(starts)))
        places = {"span": starts[i], "neighbor": starts[neighbor], "overlap": starts[i] + half}
        random = next((start for start in three if start not in {starts[i], starts[neighbor]}), None)
        places |= {} if random is None else {"random": random}
        texts = {name: " ".join(words[place : place + self._words]) for name, place in places.items()}
        return {"random": None, **texts}

    def _documents(self) -> Iterator[tuple[str, list[str]]]:
        """The place and the words of each document."""
        place, words, file = "", list[str](), ""
        for row in self._source.read(self._columns):
            new = (row.cells[0] or "").split()
            ends = not (self._lines and new) or row.place.rpartition(":")[0] != file or len(words) >= LONGEST
            if ends and words:
                yield place, words
            if ends:
                place, words, file = row.place, [], row.place.rpartition(":")[0]
            words += new
        if words:
            yield place, words


Groups = Literal["union", "program"]
SHOWN = "[[[0, 12]], [[13, 20], [25, 30]]]"


class Propositions(Dataset):
    """Rows of two sentences, the propositions of each, and which of them say the same.

    A proposition is a list of character ranges, `[start, end]` with the end left out, and may be discontinuous:

        {"text_a": "...", "text_b": "...",
         "propositions_a": [[[0, 12]], [[13, 20], [25, 30]]], "propositions_b": [[[0, 9]]], "equal": [[1, 0]]}

    An entry `[i, j]` of `equal` says that proposition i of the first sentence and j of the second say the same. In a
    csv or tsv file, a cell holds the JSON of such a list. `cse feedback propositions` writes such files.

    Args:
        path: The source of the rows; see `cse.data.datasets`.
        columns: Names of the two columns of sentences, or their numbers. None: those that are recognized.
        proposition_columns: Names or numbers of the columns of their propositions.
        equal_column: Name or number of the column of equal ones.
        groups: The propositions that count as the same. `union`: those that pairs connect, also by way of others
            (the paper's intent). `program`: what the authors' program makes of pairs, where the last pair of a
            proposition of the second sentence replaces the earlier ones; the two agree where none is in two pairs.
        split: Split of a data set on the Hub.
        limit: Number of rows to keep. None: all.
        weight_column: Same as in `Texts`.

    Source: schen149/sub-sentence-encoder, utils/label_utils.py:148-199.
    """

    unit = "pairs with propositions"

    def __init__(
        self,
        path: str | Path | Sized,
        *,
        columns: Sequence[int | str] | None = None,
        proposition_columns: Sequence[int | str] = ("propositions_a", "propositions_b"),
        equal_column: int | str = "equal",
        groups: Groups = "union",
        split: str = "train",
        limit: int | None = None,
        weight_column: int | str | None = None,
    ) -> None:
        for name, given in (("columns", columns), ("proposition_columns", proposition_columns)):
            if given is not None and len(given) != 2:
                raise UserError(f"data.{name} is {list(given)}\nfix: give two columns, one for each sentence")
        if groups not in {"union", "program"}:
            raise UserError(f"data.groups is {groups!r}\nfix: give union or program")
        self.columns, self.proposition_columns, self.equal_column = columns, proposition_columns, equal_column
        self.groups, self.split, self.limit, self.weight_column = groups, split, limit, weight_column
        spans = [Column("data.proposition_columns", name, "json") for name in proposition_columns]
        read = (*spans, Column("data.equal_column", equal_column, "json"))
        values = [Value("spans", read, lambda _: parse), *values_of(weight=weight_column)]
        super().__init__(path, of_pairs(open_source(path, split), columns, lists=False), Parsing(2, limit, values))

    def _row(self, index: int) -> Example:
        values = self._rows.values(index)
        first, second, equal = json.loads(values.pop("spans"))
        numbers = grouped(len(first), len(second), equal, self.groups)
        parts = ((first, numbers[: len(first)]), (second, numbers[len(first) :]))
        spans = tuple(
            TextSpans(tuple(tuple((start, end) for start, end in p) for p in found), tuple(group))
            for found, group in parts
        )
        return Example(self._rows.texts(index), row_id=index, spans=spans, **values)


def grouped(first: int, second: int, equal: Sequence[Sequence[int]], groups: Groups = "union") -> list[int]:
    """Number the propositions of the first, then of the second sentence; those that say the same have the same number.

    There are `first` and `second` of them, and `equal` are pairs (i, j) that say the same; see `Propositions`.
    """
    number = list(range(first + second))
    for i, j in equal:
        if groups == "program":
            number[first + j] = i
            continue
        low, high = sorted((number[i], number[first + j]))
        number = [low if n == high else n for n in number]
    return number


def parse(cells: Cells, texts: Cells, place: str) -> str:
    """Check the propositions of both sentences and the equal ones, as JSON; ranges count from the first letter."""
    names = ("first sentence", "second sentence")
    found = [_checked(cells[i], texts[i] or "", f"data.proposition_columns: {place}, {names[i]}") for i in (0, 1)]
    equal = _json(cells[2], f"data.equal_column: {place}", "[[0, 1], [2, 0]]")
    counts = [len(one) for one in found]
    for pair in equal:
        right = isinstance(pair, list) and len(pair) == 2 and all(isinstance(n, int) for n in pair)
        if not right or not all(0 <= n < count for n, count in zip(pair, counts, strict=True)):
            raise UserError(
                f"data.equal_column: {place} has the pair {pair!r}, and its sentences have {counts[0]} and {counts[1]} "
                "propositions\nfix: give pairs [i, j], numbers from 0 of one in the first and one in the second"
            )
    return json.dumps([*found, equal])


def _checked(cell: str | None, text: str, where: str) -> list[Any]:
    """The propositions of a sentence, without the white space before it, which is removed."""
    found, shift = _json(cell, where, SHOWN), len(text) - len(text.lstrip())
    for proposition in found:
        for pair in proposition if isinstance(proposition, list) and proposition else [[]]:
            right = isinstance(pair, list) and len(pair) == 2 and all(isinstance(n, int) for n in pair)
            if not right or not 0 <= pair[0] < pair[1] <= len(text):
                raise UserError(
                    f"{where} has the proposition {str(proposition)[:60]}, and {len(text)} characters\n"
                    f"fix: give each proposition as ranges [start, end] with 0 <= start < end <= {len(text)}, such as "
                    f"{SHOWN}"
                )
    return [[[max(0, start - shift), max(0, end - shift)] for start, end in ranges] for ranges in found]


def _json(cell: str | None, where: str, example: str) -> list[Any]:
    try:
        found = json.loads(cell or "[]")
    except ValueError:
        found = None
    if not isinstance(found, list):
        raise UserError(f"{where} has {str(cell)[:60]!r}, which is not a list\nfix: give JSON such as {example}")
    return found
