"""The rows of an evaluator: a data set of `cse.data`, or what one is read from; and what was found on them."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from pathlib import Path, PurePath
from typing import Any

from cse.data.datasets import Dataset, Texts
from cse.errors import UserError
from cse.evaluation.evaluator import EvalResult, RowEvaluator

TEST = "test"  # the split of a Hub id that is scored, unless a data set of `cse.data` says another


def set_name(data: Dataset) -> str:
    """A short name of the rows: that of their file without its endings, or of their data set on the Hub."""
    if data.in_memory:
        return "rows"
    return PurePath(data.name.partition(":")[2] or data.name).name.partition(".")[0] or "rows"


def found_in(
    data: Dataset,
    evaluator: RowEvaluator,
    *,
    kind: str,
    unit: str,
    measures: Mapping[str, tuple[str, ...]],
    arrays: Mapping[str, Any],
    sha256: str | None = None,
    left_out: Mapping[str, int] | None = None,
    **facts: Any,
) -> list[EvalResult]:
    """Hold what an evaluator finds on a data set; `EvalResult` has the fields, and `left_out` the counts of rows."""
    counts = {name: count for name, count in {**data.report, **(left_out or {})}.items() if count}
    found = EvalResult.of(
        evaluator.name,
        kind=kind,
        measures=measures,
        arrays=arrays,
        primary=evaluator.primary,
        unit=unit,
        sha256=sha256 or data.hash,
        where=data.name,
        about={"left_out": counts, **facts},
    )
    return [found]


def labeled_texts(
    data: Texts | str | Path | Sized, option: str, split: str = TEST
) -> tuple[Dataset, list[str], list[str]]:
    """A data set of texts with labels, its texts, and its labels by name; `option` is that of the evaluator.

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
