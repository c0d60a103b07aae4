"""Data sets of `Example`, read from a file, an asset or the Hub. The constructor reads and checks all rows.

    Texts        one text in each row; the collator makes its views
    Pairs        two texts with the same meaning, or an anchor and several positives
    Triplets     anchor, positive, hard negatives
    ScoredPairs  two texts and their similarity

`path` is a .txt, .csv, .tsv, .jsonl or .parquet file, each also as .gz, a folder or a pattern of such files, a folder
of BEIR, `asset:NAME`, or a Hub id: `org/name`, `org/name:configuration`, `org/name:file`, each also with `@REVISION`,
or `stream:org/name`, which keeps no copy of the data set on disk and fetches only `limit` rows. `path` may also be an
object in memory: a list of strings, of tuples in the order of the columns, or of dicts; a pandas or polars DataFrame; a
pyarrow Table; a `datasets.Dataset`. Columns that are not named are recognized by the names in use.

White space around a text is removed. Blank rows and exact repetitions of a row are left out and counted in `report`; a
missing cell becomes one space, as in SimCSE, and is counted too.

A `weight_column` gives the weight of each row in the mean of an objective. A `label_column` gives the class or cluster
of each row, for samplers; its values may be any text or number. `relevance_columns` grade the positives of each row.
`teacher_columns` hold what a teacher said of each row: numbers, or lists of numbers such as vectors.

A data class raises a UserError if an argument is out of range, if the source cannot be read, or if a row has a score
out of range, a weight or a relevance that is not a number >= 0, no label, or no number of the teacher.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence, Sized
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cse.batch import Example
from cse.data.reading.columns import (
    CLASSES,
    LABELS,
    NUMERIC,
    Known,
    Names,
    Parsing,
    Shape,
    described,
    kept_rows,
    of_pairs,
    of_texts,
    of_triplets,
    recognize,
    score_column_of,
    values_of,
)
from cse.data.reading.memory import MemoryReader, label, open_source, save
from cse.data.reading.rows import Column, Reader
from cse.data.reading.store import require_two, stored
from cse.data.reading.texts import ByRow, TextStream
from cse.errors import UserError, require_at_least, require_within
from cse.seeding import derive

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Dataset(ByRow[Example]):
    """Rows in the order of the source. They are on disk, memory-mapped, and an `Example` is made when it is asked for.

    Attributes:
        name: The path that was given, or the type of the object that held the rows.
        path: The source that was read: a path, or an object in memory.
        understood: What was recognized of the columns, in words; empty if they were named.
        report: Counts of `blank` and `duplicate` rows that are left out, of `missing` cells, and of what a class or a
            source adds.
        remarks: Counts of what is unusual about rows that are kept.
        hash: The sha256 of the content.
        label_names: The class or cluster that each `Example.label` stands for; empty without labels.
        value_names: The values that rows have: score, weight, label, relevance, teacher, spans.
        ragged: Whether rows have unequal numbers of texts.
        in_memory: Whether the rows came from an object in memory, which no recipe can name.
        keep_places: Whether a row has an empty text at the place of a missing one.
    """

    unit = "rows"
    num_positives = 1
    keep_places = False

    def __init__(self, path: str | Path | Sized, shape: Shape, parsing: Parsing) -> None:
        self.path: str | Sized = str(path) if isinstance(path, Path) else path
        self.name, self.understood = label(path), described(shape, parsing.columns)
        self._saved = [*(shape.saved or shape.texts), *parsing.columns]
        key = shape.source.key()
        self._rows = rows = stored(
            None if key is None else f"{key} {shape.texts} {parsing.key}",
            [value.name for value in parsing.values],
            lambda report, labels: kept_rows(shape, parsing, report, labels),
            parsing.limit,
            parsing.scale,
        )
        self.report, self.remarks, self.hash, self.label_names = rows.report, rows.remarks, rows.hash, rows.labels
        self.value_names, self.ragged = frozenset(rows.names), rows.ragged
        self.in_memory = not isinstance(path, str | Path)
        require_two(self._rows, f"data is a {self.name}" if self.in_memory else f"data.path is {self.name}")

    def __len__(self) -> int:
        return len(self._rows)

    def _row(self, index: int) -> Example:
        values = self._rows.values(index)
        return Example(self._rows.texts(index), num_positives=self.num_positives, row_id=index, **values)

    def save_source(self, target: Path) -> None:
        """Write the rows that came from memory, as they were before anything was left out."""
        if not isinstance(self.path, str):
            save(self.path, self._saved, target)

    def labels(self) -> NDArray[np.int64] | None:
        """The label (n,) of every row; None if rows have no labels."""
        return self._rows.column("label") if "label" in self.value_names else None

    def scores(self) -> NDArray[np.float64] | None:
        """The score (n,) of every row as it was read, on its own scale; None if rows have no scores."""
        return self._rows.column("score") if "score" in self.value_names else None

    def blocks(self) -> Iterator[list[list[str]]]:
        """The texts of all rows, some thousands of rows at a time."""
        return self._rows.blocks()

    def texts(self) -> TextStream:
        """All texts, row by row, with repetitions."""

        def blocks() -> Iterator[list[str]]:
            return (list(chain.from_iterable(rows)) for rows in self.blocks())

        return TextStream(self.hash, len(self) * len(self[0].texts), blocks)

    def unique_texts(self) -> list[str]:
        """The distinct texts of all rows, in order of their first occurrence, for data that fit into memory."""
        return list(dict.fromkeys(self.texts()))

    def describe(self) -> str:
        """A description such as `asset:wiki 36,310 sentences`."""
        return f"{self.name} {len(self):,} {self.unit}"


class Texts(Dataset):
    """Rows of one text.

    Args:
        path: The source of the rows; see the docstring of the module.
        column: The name of the column, or its number in a csv or tsv file without a header; ignored for a .txt file.
            None: the first that is recognized: `text`, `sentence`, ...
        split: Split of a data set on the Hub.
        limit: Number of rows to keep. None: all.
        min_words: Smallest number of words; shorter texts are left out and counted as `short` in `report`.
        max_words: Largest number of words; longer texts are left out and counted as `long`. None: no limit.
        share: The share of the rows to keep, in (0, 1]: those whose text has a hash below it, so that a text is kept or
            left out wherever it stands, and the rows come from all parts of the source. The others are counted as `not
            drawn`. None: all.
        weight_column: Name or number of the column of weights, which must be >= 0. None: all rows have weight 1.
        label_column: Name or number of the column of classes or clusters. None: rows have no labels.
        teacher_columns: Names or numbers of the columns with what a teacher said of each row: any finite number, or a
            list of them, such as a vector. A row has those of all columns, in their order; every row has as many. `cse
            teach` writes them. None: rows have no teacher.
    """

    unit = "sentences"

    def __init__(
        self,
        path: str | Path | Sized,
        *,
        column: int | str | None = None,
        split: str = "train",
        limit: int | None = None,
        min_words: int = 0,
        max_words: int | None = None,
        share: float | None = None,
        weight_column: int | str | None = None,
        label_column: int | str | None = None,
        teacher_columns: Sequence[int | str] | None = None,
    ) -> None:
        require_at_least(0, "data", min_words=min_words)
        require_at_least(max(1, min_words), "data", max_words=max_words)
        require_within("(0, 1]", "data", share=share)
        self.column, self.split, self.limit, self.min_words, self.max_words = column, split, limit, min_words, max_words
        self.share = share
        self.weight_column, self.label_column, self.teacher_columns = weight_column, label_column, teacher_columns

        def verdict(texts: tuple[str, ...]) -> str:
            words = len(texts[0].split())
            if words < min_words or (max_words is not None and words > max_words):
                return "short" if words < min_words else "long"
            return "not drawn" if share is not None and derive(0, "share", texts[0]) >= share * 2**63 else ""

        values = values_of(teacher=teacher_columns, weight=weight_column, label=label_column)
        parsing = Parsing(1, limit, values, options=(min_words, max_words, share), verdict=verdict)
        super().__init__(path, of_texts(open_source(path, split), column), parsing)


class Pairs(Dataset):
    """Rows of an anchor and its positive, or of an anchor and several positives.

    Args:
        path: The source of the rows; see the docstring of the module.
        columns: Two names, or two numbers in a csv or tsv file without a header; more are those of further positives.
            The second of two may hold lists: a row for each positive. None: those that are recognized.
        relevance_columns: Names or numbers of the columns with the relevance of each positive, a number >= 0 (GCL); one
            for each positive. None: positives are not graded.
        split: Split of a data set on the Hub.
        limit: Number of rows to keep. None: all.
        weight_column: Same as in `Texts`.
        label_column: Same as in `Texts`.
        teacher_columns: Same as in `Texts`.
    """

    unit = "pairs"

    def __init__(
        self,
        path: str | Path | Sized,
        *,
        columns: Sequence[int | str] | None = None,
        relevance_columns: Sequence[int | str] | None = None,
        split: str = "train",
        limit: int | None = None,
        weight_column: int | str | None = None,
        label_column: int | str | None = None,
        teacher_columns: Sequence[int | str] | None = None,
    ) -> None:
        self.columns, self.relevance_columns, self.split, self.limit = columns, relevance_columns, split, limit
        self.weight_column, self.label_column, self.teacher_columns = weight_column, label_column, teacher_columns
        _require_columns(columns)
        shape = of_pairs(open_source(path, split), columns)
        self.num_positives = len(shape.texts) - 1
        if relevance_columns and len(relevance_columns) != self.num_positives:
            raise UserError(
                f"data.relevance_columns has {len(relevance_columns)} columns for {self.num_positives} positives\n"
                "fix: give one column for each positive, in the order of data.columns"
            )
        values = values_of(
            relevance=relevance_columns, teacher=teacher_columns, weight=weight_column, label=label_column
        )
        super().__init__(path, shape, Parsing(1 + self.num_positives, limit, values))


class Triplets(Dataset):
    """Rows of an anchor, its positive and one or more hard negatives.

    If there are several columns of negatives, missing ones are left out, so rows may have unequal numbers of negatives.
    If there is one, it is left out where it is null (parquet, jsonl), and an empty cell is a missing cell.

    Args:
        path: The source of the rows; see the docstring of the module.
        columns: Names of anchor, positive, negative and further negatives; or numbers, as for `Pairs`. Those after the
            first may hold lists. None: those that are recognized.
        keep_places: Whether a missing text after the first two keeps its place, for objectives that tell the columns
            apart (MEQ): the row has an empty text there, and `Batch.view_mask` is False. Lists are not allowed then.
        score_column: Name or number of the column with the similarity of anchor and positive, in [0, 1] (CLHAIF). None:
            rows have no scores.
        split: Split of a data set on the Hub.
        limit: Number of rows to keep. None: all.
        weight_column: Same as in `Texts`.
        label_column: Same as in `Texts`.
        teacher_columns: Same as in `Texts`.
    """

    unit = "triplets"

    def __init__(
        self,
        path: str | Path | Sized,
        *,
        columns: Sequence[int | str] | None = None,
        keep_places: bool = False,
        score_column: int | str | None = None,
        split: str = "train",
        limit: int | None = None,
        weight_column: int | str | None = None,
        label_column: int | str | None = None,
        teacher_columns: Sequence[int | str] | None = None,
    ) -> None:
        self.columns, self.score_column, self.split, self.limit = columns, score_column, split, limit
        self.keep_places, self.teacher_columns = keep_places, teacher_columns
        self.weight_column, self.label_column = weight_column, label_column
        _require_columns(columns, at_least=3)
        shape = of_triplets(open_source(path, split), columns, lists=not keep_places)
        score = None if score_column is None else (Column("data.score_column", score_column), 0.0, 1.0)
        values = values_of(teacher=teacher_columns, score=score, weight=weight_column, label=label_column)
        one = len(shape.texts) == 3  # negative
        super().__init__(path, shape, Parsing(2, limit, values, keeps_empty=one, keeps_places=keep_places))


class ScoredPairs(Dataset):
    """Rows of two texts and their similarity; `Example.score` is (score - min_score) / (max_score - min_score).

    Args:
        path: The source of the rows; see the docstring of the module.
        columns: Two names, or two numbers in a csv or tsv file without a header. None: those that are recognized.
        score_column: Name or number of the column of scores. None: the one that is recognized.
        min_score: The score of texts that have nothing in common (STS: 0, SICK-R: 1). None: the smallest of the rows.
        max_score: The score of texts with the same meaning (STS and SICK-R: 5). None: the largest of the rows.
        split: Split of a data set on the Hub.
        limit: Number of rows to keep. None: all.
        teacher_columns: Same as in `Texts`.
    """

    unit = "scored pairs"

    def __init__(
        self,
        path: str | Path | Sized,
        *,
        columns: Sequence[int | str] | None = None,
        score_column: int | str | None = None,
        min_score: float | None = 0.0,
        max_score: float | None = 1.0,
        split: str = "train",
        limit: int | None = None,
        teacher_columns: Sequence[int | str] | None = None,
    ) -> None:
        if min_score is not None and max_score is not None and not min_score < max_score:
            raise UserError(f"data.max_score is {max_score}\nfix: give a number > data.min_score, which is {min_score}")
        self.columns, self.score_column, self.split, self.limit = columns, score_column, split, limit
        self.min_score, self.max_score, self.teacher_columns = min_score, max_score, teacher_columns
        _require_columns(columns, exactly=2)
        source = open_source(path, split)
        low, high = -math.inf if min_score is None else min_score, math.inf if max_score is None else max_score
        values = values_of(teacher=teacher_columns, score=(score_column_of(source, score_column), low, high))
        parsing = Parsing(2, limit, values, scale=(min_score, max_score))
        super().__init__(path, of_pairs(source, columns, lists=False), parsing)


def _require_columns(names: Sequence[int | str] | None, *, exactly: int | None = None, at_least: int = 2) -> None:
    """Raise unless the names or numbers of columns are enough, and different."""
    if names is None:
        return
    wrong = len(names) != exactly if exactly else len(names) < at_least
    if wrong or len(set(names)) < len(names):
        raise UserError(
            f"data.columns is {list(names)}\nfix: give {exactly or f'{at_least} or more'} different columns"
        )
    if len({type(name) for name in names}) > 1 or any(isinstance(n, int) and n < 0 for n in names):
        raise UserError(f"data.columns is {list(names)}\nfix: give names, or numbers from 0, not both")


KINDS: dict[str, Callable[..., Dataset]] = {each.__name__: each for each in (Texts, Pairs, Triplets, ScoredPairs)}


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
    """Open the rows of a source as the data class that their columns fit.

    Columns of anchor, positive and negatives make triplets, and so do premise, hypothesis and the label of an
    inference. Two texts and a number make scored pairs, of any scale; two texts make pairs; others make texts, whose
    label is read too.

    Args:
        source: A path or an object in memory; see `cse.data.datasets`.
        kind: The name of the data class: Texts, Pairs, Triplets or ScoredPairs. None: the one that fits.
        columns: The columns of texts, by name, or by number in a csv or tsv file without a header. None: recognized.
        score_column: The column of scores, which makes scored pairs of two columns.
        weight_column: See `Texts`, also for those below.
        label_column: See `weight_column`.
        teacher_columns: See `weight_column`.
        split: See `weight_column`.
        limit: See `weight_column`.
    """
    if kind is not None and kind not in KINDS:
        raise UserError(f"the class of rows is {kind!r}\nfix: give one of {', '.join(KINDS)}")
    if kind is None:
        kind = _by_columns(columns, score_column) or _recognized(open_source(source, split), score_column)
    if score_column is not None and kind not in {"Triplets", "ScoredPairs"}:
        raise UserError(f"the column of scores is {score_column}, but {kind} have no score\nfix: give ScoredPairs")
    given: dict[str, Any] = {"columns": columns, "score_column": score_column, "weight_column": weight_column}
    given |= {"label_column": label_column, "teacher_columns": teacher_columns}
    if kind == "Texts":
        if columns is not None and len(columns) != 1:
            raise UserError(f"the columns of Texts are {list(columns)}\nfix: give one column, or another class of rows")
        if label_column is None and columns is None:
            given["label_column"] = label_of(open_source(source, split))
        given |= {"column": columns[0] if columns else None, "columns": None}
    if kind == "ScoredPairs" and (weight_column is not None or label_column is not None):
        raise UserError("scored pairs have no weights and no labels\nfix: leave these columns out")
    options = {name: value for name, value in given.items() if value is not None}
    options |= {"min_score": None, "max_score": None} if kind == "ScoredPairs" else {}
    return KINDS[kind](source, split=split, limit=limit, **options)


def _by_columns(columns: Names, score_column: int | str | None) -> str | None:
    """Tell the class of rows whose columns are named."""
    if columns is None:
        return None
    if len(columns) == 2:
        return "Pairs" if score_column is None else "ScoredPairs"
    return "Texts" if len(columns) < 2 else "Triplets"


def _recognized(source: Reader, score_column: int | str | None) -> str:
    """Tell the class of rows whose columns are not named."""
    if source.names() is None:  # lines of a file, or texts and tuples in memory
        return {1: "Texts", 2: "Pairs"}.get(source.width() if isinstance(source, MemoryReader) else 1, "Triplets")
    try:
        known = recognize(source)
    except UserError:  # texts in several languages, of which Pairs asks for two
        return "Pairs"
    scored = score_column is not None or _scored(source, known)
    if "negatives = " in known.triplet or (known.triplet and not scored):
        return "Triplets"
    if len(known.names) > 1 and not known.pairs and not known.text:
        raise UserError(
            f"{source.what} has the columns {', '.join(known.names)}, none of them with a name that is known\n"
            "fix: name those of the texts: --columns NAME ..., or columns=[...] in Python"
        )
    if not known.pairs:
        return "Texts"
    return "ScoredPairs" if scored else "Pairs"


def _scored(source: Reader, known: Known) -> bool:
    """Tell whether rows of two texts have a number that is not the class of an inference."""
    if not known.score or not known.pair or {"premise", "hypothesis"} <= set(known.names):
        return False
    first = next(source.read([Column("data.score_column", known.score)]), None)
    value = (first.cells[0] or "") if first and first.cells else ""
    return known.score not in LABELS or value.lower() not in CLASSES or value in NUMERIC


def label_of(source: Reader) -> str | None:
    """Find the column of labels beside single texts by its name; None if there is none."""
    return next((name for name in LABELS if name in (source.names() or [])), None)
