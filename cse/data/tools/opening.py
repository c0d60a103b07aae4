"""Opens rows with the data class that their columns fit."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from pathlib import Path

from cse.data.datasets import Dataset, Pairs, ScoredPairs, Texts, Triplets
from cse.data.memory import MemoryReader, open_source
from cse.data.rows import Column, Reader
from cse.data.shapes import CLASSES, LABELS, SCORES, of_pairs, of_triplets
from cse.errors import UserError

KINDS = ("Texts", "Pairs", "Triplets", "ScoredPairs")
NUMERIC = {name for name in CLASSES if name.lstrip("-").isdecimal()} | {"", "-"}  # labels that may also be scores


def open_rows(
    source: str | Path | Sized,
    *,
    kind: str | None = None,
    columns: Sequence[int | str] | None = None,
    score_column: int | str | None = None,
    weight_column: int | str | None = None,
    label_column: int | str | None = None,
    teacher_columns: Sequence[int | str] | None = None,
    split: str = "train",
    limit: int | None = None,
) -> Dataset:
    """The rows of a source, as the data class that their columns fit.

    Columns of anchor, positive and negatives make triplets, and so do premise, hypothesis and the label of an
    inference. Two texts and a number make scored pairs, of any scale; two texts make pairs; others make texts, whose
    label is read too.

    Args:
        source: A path or an object in memory; see `cse.data.datasets`.
        kind: The name of the data class: Texts, Pairs, Triplets or ScoredPairs. None: the one that fits.
        columns: The columns of texts, by name, or by number in a csv or tsv file without a header. None: recognized.
        score_column: The column of scores, which makes scored pairs of two columns.
        weight_column: The column of weights. None: rows have no weights.
        label_column: The column of labels.
        teacher_columns: The columns of a teacher's numbers. None: rows have none.
        split: Split of a data set on the Hub.
        limit: Number of rows to keep. None: all.

    Raises:
        UserError: An argument does not fit the class, or the source cannot be read.
    """
    if kind is not None and kind not in KINDS:
        raise UserError(f"the class of rows is {kind!r}\nfix: give one of {', '.join(KINDS)}")
    if kind is None:
        kind = _by_columns(columns, score_column) or _recognized(open_source(source, split), score_column)
    if score_column is not None and kind not in {"Triplets", "ScoredPairs"}:
        raise UserError(f"the column of scores is {score_column}, but {kind} have no score\nfix: give ScoredPairs")
    if kind == "Texts":
        if columns is not None and len(columns) != 1:
            raise UserError(f"the columns of Texts are {list(columns)}\nfix: give one column, or another class of rows")
        if label_column is None and columns is None:
            label_column = label_of(open_source(source, split))
        return Texts(
            source,
            column=columns[0] if columns else None,
            split=split,
            limit=limit,
            weight_column=weight_column,
            label_column=label_column,
            teacher_columns=teacher_columns,
        )
    if kind == "ScoredPairs":
        if weight_column is not None or label_column is not None:
            raise UserError("scored pairs have no weights and no labels\nfix: leave these columns out")
        return ScoredPairs(
            source,
            columns=columns,
            score_column=score_column,
            min_score=None,
            max_score=None,
            split=split,
            limit=limit,
            teacher_columns=teacher_columns,
        )
    if kind == "Pairs":
        return Pairs(
            source,
            columns=columns,
            split=split,
            limit=limit,
            weight_column=weight_column,
            label_column=label_column,
            teacher_columns=teacher_columns,
        )
    return Triplets(
        source,
        columns=columns,
        score_column=score_column,
        split=split,
        limit=limit,
        weight_column=weight_column,
        label_column=label_column,
        teacher_columns=teacher_columns,
    )


def _by_columns(columns: Sequence[int | str] | None, score_column: int | str | None) -> str | None:
    """The class of rows whose columns are named."""
    if columns is None:
        return None
    if len(columns) == 2:
        return "Pairs" if score_column is None else "ScoredPairs"
    return "Texts" if len(columns) < 2 else "Triplets"


def _recognized(source: Reader, score_column: int | str | None) -> str:
    """The class of rows whose columns are not named."""
    names = source.names()
    if names is None:
        return _by_width(source)
    triplets = of_triplets(source, None).said
    if "negatives = " in triplets or (triplets and not (score_column or _scored(source, names))):
        return "Triplets"
    try:
        pairs = bool(of_pairs(source, None).said)
    except UserError:  # texts in several languages, of which Pairs asks for two
        pairs = True
    if not pairs:
        return "Texts"
    return "ScoredPairs" if score_column or _scored(source, names) else "Pairs"


def _scored(source: Reader, names: Sequence[str]) -> bool:
    """Whether rows of two texts have a number that is not the class of an inference."""
    found = next((name for name in SCORES if name in names), None)
    plain = of_pairs(source, None, lists=False) if found else None
    if found is None or plain is None or not plain.said or {"premise", "hypothesis"} <= set(names):
        return False
    first = next(source.read([Column("data.score_column", found)]), None)
    value = (first.cells[0] or "") if first and first.cells else ""
    return found not in LABELS or value.lower() not in CLASSES or value in NUMERIC


def label_of(source: Reader) -> str | None:
    """The column of labels beside single texts, recognized by its name; None if there is none."""
    names = source.names() or []
    return next((name for name in LABELS if name in names), None)


def _by_width(source: Reader) -> str:
    """The class of rows without names: lines of a file, or texts and tuples in memory."""
    width = source.width() if isinstance(source, MemoryReader) else 1
    return {1: "Texts", 2: "Pairs"}.get(width, "Triplets")
