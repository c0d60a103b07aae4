"""The rows of an evaluator: a data set of `cse.data`, or what one is read from."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from pathlib import Path, PurePath
from typing import Any

from cse.data.datasets import Dataset, Texts
from cse.errors import UserError

TEST = "test"  # the split of a Hub id that is scored, unless a data set of `cse.data` says another


def set_name(data: Dataset) -> str:
    """A short name of the rows: that of their file without its endings, or of their data set on the Hub."""
    if data.in_memory:
        return "rows"
    return PurePath(data.name.partition(":")[2] or data.name).name.partition(".")[0] or "rows"


def described(data: Dataset, left_out: Mapping[str, int] | None = None, **facts: Any) -> dict[str, Any]:
    """What a finding says of its rows: the counts of those that were left out, and further facts."""
    counts = {name: count for name, count in {**data.report, **(left_out or {})}.items() if count}
    return {"left_out": counts, **facts}


def columns_of(data: Dataset) -> list[list[str]]:
    """The texts of rows that have the same number of them, by column."""
    return [list(column) for column in zip(*(row.texts for row in data), strict=True)]


def labeled_texts(
    data: Texts | str | Path | Sized, option: str, split: str = TEST
) -> tuple[Dataset, list[str], list[str]]:
    """A data set of texts with labels, its texts, and its labels by name.

    Args:
        data: The data set, or what `cse.data.Texts` reads it from.
        option: The name of the evaluator's option.
        split: The split of a data set on the Hub.

    Raises:
        UserError: The rows cannot be read, or have fewer than two labels.
    """
    rows = data if isinstance(data, Dataset) else Texts(data, label_column="label", split=split)
    if len(rows.label_names) < 2:
        only = f"one label, {rows.label_names[0]!r}" if rows.label_names else "no labels"
        raise UserError(
            f"evaluator.{option}: the rows of {rows.name} have {only}\n"
            "fix: give texts of two or more labels, and name their column: cse.data.Texts(..., label_column=...)"
        )
    return rows, [row.texts[0] for row in rows], [rows.label_names[row.label or 0] for row in rows]
