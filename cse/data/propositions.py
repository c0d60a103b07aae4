"""Pairs of sentences whose propositions are marked: parts that say one thing each, by ranges of characters."""

from __future__ import annotations

import json
from collections.abc import Sequence, Sized
from pathlib import Path
from typing import Any, Literal

from cse.batch import Example, TextSpans
from cse.data.datasets import Dataset
from cse.data.memory import open_source
from cse.data.parsing import Cells, Parsing
from cse.data.rows import Column
from cse.data.shapes import of_pairs
from cse.errors import UserError

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

    Raises:
        UserError: An argument is out of range, the source cannot be read, or a row has a range outside its sentence or
            a pair of propositions that it does not have.

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
        parsing = Parsing(2, limit)
        spans = [Column("data.proposition_columns", name, "json") for name in proposition_columns]
        parsing.span([*spans, Column("data.equal_column", equal_column, "json")], parse)
        parsing.mark(weight_column, None)
        super().__init__(path, of_pairs(open_source(path, split), columns, lists=False), parsing)

    def _row(self, index: int) -> Example:
        values = self._rows.values(index)
        first, second, equal = json.loads(values.pop("spans"))
        numbers = grouped(len(first), len(second), equal, self.groups)
        parts = ((first, numbers[: len(first)]), (second, numbers[len(first) :]))
        spans = tuple(TextSpans(tuple(_ranges(p) for p in found), tuple(group)) for found, group in parts)
        return Example(self._rows.texts(index), row_id=index, spans=spans, **values)


def grouped(first: int, second: int, equal: Sequence[Sequence[int]], groups: Groups = "union") -> list[int]:
    """A number for each proposition of a pair of sentences, the same for those that say the same.

    Args:
        first: Number of propositions of the first sentence.
        second: Number of those of the second one.
        equal: Pairs (i, j) of a proposition of the first and one of the second that say the same.
        groups: See `Propositions`.

    Returns:
        Numbers of the propositions of the first sentence, then of the second.
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
    """The propositions of both sentences and the equal ones, checked, as JSON; ranges count from the first letter.

    Raises:
        UserError: A cell is not such a list, a range lies outside its sentence, or a proposition does not exist.
    """
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


def _ranges(proposition: Sequence[Sequence[int]]) -> tuple[tuple[int, int], ...]:
    return tuple((start, end) for start, end in proposition)
