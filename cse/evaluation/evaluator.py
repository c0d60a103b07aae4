"""Hold what is found on one set of rows: scores, and the arrays from which each score is computed again.

With the arrays, every score has an interval, and two models are compared on the same rows without loading either.
An evaluator is a `RowEvaluator` with a method `measure` that returns one `EvalResult.of(...)` for each set of rows; all
else (scores, intervals, `cse eval compare`, results.json, reports, the model card, the table that ends a run) needs no
more.
"""

from __future__ import annotations

import hashlib
import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np

from cse.data.checks import KnowsTexts
from cse.data.datasets import Dataset, Texts
from cse.errors import UserError, require_ranges
from cse.evaluation.statistic import RESAMPLES, STATISTICS, Samples, Vector, bootstrap
from cse.interfaces import Evaluator, Rows, SentenceEncoder

MEAN = "mean"  # the key of the mean over sets of rows, for an evaluator that has several
TEST = "test"  # the split of a Hub id that is scored, unless a data set of `cse.data` says another


@dataclass(frozen=True)
class Measure:
    """A score, and what it is computed from."""

    value: float  # the score, times 100; larger is better
    statistic: str  # the name of its function in `cse.evaluation.statistic.STATISTICS`
    of: tuple[str, ...]  # names of the arrays that the function takes; the first is the model's own


@dataclass(frozen=True)
class EvalResult:
    """The scores of one encoder on one set of rows."""

    name: str  # the name of the set, which is unique among those of an evaluator
    kind: str  # what was done with the rows, such as `retrieval`
    primary: str  # the measure that stands for the others
    measures: Mapping[str, Measure]  # the scores, by name
    arrays: Mapping[str, Vector]  # arrays (n,) with one number for each unit
    unit: str  # what a unit is: queries, pairs, triplets, texts
    sha256: str  # hash of the rows: only findings on the same rows are compared
    where: str  # the place that the rows came from
    # facts for results.json: counts of rows that were left out, settings, a threshold
    about: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        name: str,
        *,
        kind: str,
        measures: Mapping[str, tuple[str, ...]],
        arrays: Mapping[str, Any],
        primary: str,
        unit: str,
        sha256: str,
        where: str,
        about: Mapping[str, Any] | None = None,
    ) -> EvalResult:
        """A result whose scores are computed from its arrays (n,) of numbers.

        `measures` has the statistic and the names of its arrays by the name of the score, such as
        `{"ap": ("average_precision", "cosine", "label")}`; see the class for the other arguments.

        Raises:
            UserError: A score is undefined on these rows, as a correlation is if all values are equal.
        """
        columns = {key: np.asarray(values, dtype=np.float64) for key, values in arrays.items()}
        found = {}
        for key, (statistic, *of) in measures.items():
            models = [[columns[column] for column in of]]
            value = float(STATISTICS[statistic](models)(np.ones((1, len(models[0][0]))))[0, 0])
            if not math.isfinite(value):
                raise UserError(
                    f"{name}: {key} is undefined on {len(models[0][0])} {unit}: all values of an array are equal\n"
                    "fix: check the rows; if they are right, the model has collapsed"
                )
            found[key] = Measure(value, statistic, tuple(of))
        return cls(name, kind, primary, found, columns, unit, sha256, where, about or {})

    @property
    def n(self) -> int:
        """Number of units of the primary score; 0 for an evaluator that returns numbers only."""
        return len(self.arrays[self.measures[self.primary].of[0]]) if self.arrays else 0

    @property
    def value(self) -> float:
        """The primary score."""
        return self.measures[self.primary].value


class Answer(NamedTuple):
    """Score an encoder."""

    scores: dict[str, float]  # the scores by name
    findings: list[EvalResult]  # what they are taken from
    # gives what else results.json has: further keys, and under `tasks` further keys of a task
    facts: Callable[[], dict[str, Any]] = dict


class RowEvaluator(Evaluator):
    """An evaluator whose scores have intervals and can be compared, since it returns what they are computed from.

    Attributes:
        name: The name of its rows.
    """

    name: str
    _texts: Sequence[Any] = ()  # the texts or rows that are scored, where they are of one set

    @abstractmethod
    def measure(self, encoder: SentenceEncoder) -> list[EvalResult]:
        """Find the scores of an encoder on each set of rows."""

    def answer(self, encoder: SentenceEncoder) -> Answer:
        """The scores of an encoder, with the findings."""
        findings = self.measure(encoder)
        return Answer(scores(findings), findings)

    def __call__(self, encoder: SentenceEncoder) -> dict[str, float]:
        """The scores of an encoder."""
        return self.answer(encoder).scores

    def texts(self, data: str | None = None) -> Mapping[str, Sequence[tuple[str, ...]]]:
        """The texts that are scored, which should not be trained on; see `cse.data.checks.KnowsTexts`."""
        rows = [(text,) if isinstance(text, str) else text for text in self._texts]
        return {self.name: rows} if rows else {}


@dataclass(eq=False, repr=False)
class OfTexts(RowEvaluator):
    """An evaluator of one set of rows; the options of a subclass are its attributes.

    Args:
        precision: fp32, bf16, or auto: bf16 where native.
        prompt: The name of the encoder's prompt that is put before all texts; None: the encoder's default prompt.
        name: The name of the rows in results. None: that of their file.
    """

    _: KW_ONLY
    precision: str = "auto"
    prompt: str | None = None
    name: str | None = None  # type: ignore[assignment]  # a text once the rows are read
    _data: Dataset = field(init=False)

    def __post_init__(self) -> None:
        """Check the ranges of the options; an override calls it, and reads the rows, `_data`."""
        require_ranges("evaluator", self)

    def found(
        self,
        kind: str,
        unit: str,
        measures: Mapping[str, tuple[str, ...]],
        arrays: Mapping[str, Any],
        sha256: str | None = None,
        left_out: Mapping[str, int] | None = None,
        **facts: Any,
    ) -> list[EvalResult]:
        """Hold what is found on the rows; `EvalResult` has the fields, and `left_out` the counts of rows."""
        data = self._data
        counts = {name: count for name, count in {**data.report, **(left_out or {})}.items() if count}
        found = EvalResult.of(
            str(self.name),
            kind=kind,
            measures=measures,
            arrays=arrays,
            primary=self.primary,
            unit=unit,
            sha256=sha256 or data.hash,
            where=data.name,
            about={"left_out": counts, **facts},
        )
        return [found]


def run_evaluator(evaluator: Evaluator, encoder: SentenceEncoder) -> Answer:
    """Ask an evaluator about an encoder; one that returns numbers only has one finding without arrays."""
    if isinstance(evaluator, RowEvaluator):
        return evaluator.answer(encoder)
    numbers = evaluator(encoder)
    name = type(evaluator).__name__
    if evaluator.primary not in numbers:
        raise UserError(
            f"{name}.primary is {evaluator.primary!r}, and it returned {', '.join(numbers) or 'nothing'}\n"
            "fix: name one of the scores that it returns"
        )
    measures = {key: Measure(float(value), "", ()) for key, value in numbers.items()}
    return Answer(numbers, [EvalResult(name, "scores", evaluator.primary, measures, {}, "", "", name)])


def require_distinct(findings: Sequence[EvalResult]) -> None:
    """Refuse two findings of one name, of which results.json could keep one only."""
    names = [finding.name for finding in findings]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"two sets of rows are named {twice!r}\nfix: give the evaluators names of their own: name=...")


def scores(findings: Sequence[EvalResult]) -> dict[str, float]:
    """The scores by name, as an evaluator returns them.

    One finding gives its measures: `{"ndcg@10": 61.2, "recall@100": 93.0}`. Several give `SET/MEASURE` each, and the
    mean of their primary scores as `mean`, if these are of one measure.
    """
    if len(findings) == 1:
        return {key: measure.value for key, measure in findings[0].measures.items()}
    found = {f"{f.name}/{key}": measure.value for f in findings for key, measure in f.measures.items()}
    if len({f.primary for f in findings}) == 1:
        found[MEAN] = sum(f.value for f in findings) / len(findings)
    return found


def chosen(primary: str, findings: Sequence[EvalResult]) -> list[str]:
    """The names of the findings of which an evaluator's primary score is the mean: `SET/MEASURE` is of one set only."""
    of = primary.rpartition("/")[0]
    return [f.name for f in findings if not of or f.name == of or f.name.startswith(f"{of}/")]


def rows_hash(rows: Iterable[Iterable[object]]) -> str:
    """Hash of rows of texts and numbers, in order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update("\x1f".join(map(str, row)).encode() + b"\x1e")
    return digest.hexdigest()


class Several(RowEvaluator):
    """The scores of several evaluators; each score is named `NAME/SCORE`, after the evaluator that gave it.

    Args:
        evaluators: The evaluators, by name.
        primary: The name of the evaluator whose primary score selects checkpoints, or one of its scores, `NAME/SCORE`.

    Raises:
        UserError: There is no evaluator, or `primary` names none of them.
    """

    def __init__(self, evaluators: Mapping[str, Evaluator], primary: str) -> None:
        self.evaluators, self._asked, self.name = dict(evaluators), primary, "+".join(evaluators)
        named = [name for name in evaluators if f"{primary}/".startswith(f"{name}/")]
        if not named:
            names = ", ".join(evaluators) or "nothing"
            raise UserError(f"evaluator.primary is {primary!r}, and evaluators has {names}\nfix: name one of them")
        self._first = max(named, key=len)

    @property
    def primary(self) -> str:  # type: ignore[override]
        """The score that selects checkpoints."""
        return self._asked if self._asked != self._first else f"{self._first}/{self.evaluators[self._first].primary}"

    def take(self, data: Rows) -> Rows:
        """The rows that each of them leaves to train on."""
        for evaluator in self.evaluators.values():
            data = evaluator.take(data)
        return data

    def texts(self, data: str | None = None) -> dict[str, Sequence[tuple[str, ...]]]:
        """The texts that each of them scores, as far as it says."""
        known = [each.texts(data) for each in self.evaluators.values() if isinstance(each, KnowsTexts)]
        return {name: rows for sets in known for name, rows in sets.items()}

    def describe(self) -> str:
        """Name what each of them scores."""
        return " · ".join(filter(None, (evaluator.describe() for evaluator in self.evaluators.values())))

    def answer(self, encoder: SentenceEncoder) -> Answer:
        """Ask each of them; one that returns numbers has a finding without arrays."""
        scores, found = dict[str, float](), list[EvalResult]()
        for name, evaluator in self.evaluators.items():
            own = run_evaluator(evaluator, encoder)
            scores |= {f"{name}/{key}": value for key, value in own.scores.items()}
            single = len(own.findings) == 1  # it takes the name of its evaluator, others go under it
            found += [replace(f, name=name if single else f"{name}/{f.name}") for f in own.findings]
        return Answer(scores, found)

    def measure(self, encoder: SentenceEncoder) -> list[EvalResult]:
        """Collect what each of them finds."""
        return self.answer(encoder).findings


def resampled(findings: Sequence[EvalResult], measure: str, resamples: int = RESAMPLES) -> Samples:
    """A measure of several models on one set of rows, on the same resamples: (k, resamples)."""
    of = findings[0].measures[measure].of
    arrays = [[finding.arrays[name] for name in of] for finding in findings]
    return bootstrap(findings[0].measures[measure].statistic, arrays, findings[0].name, resamples)


def set_name(data: Dataset) -> str:
    """A short name of the rows: that of their file without its endings, or of their data set on the Hub."""
    if data.in_memory:
        return "rows"
    return PurePath(data.name.partition(":")[2] or data.name).name.partition(".")[0] or "rows"


def labeled_texts(
    data: Texts | str | Path | Sized, option: str, split: str = TEST
) -> tuple[Dataset, list[str], list[str]]:
    """A data set of texts with labels, its texts, and its labels by name; `option` is that of the evaluator."""
    rows = data if isinstance(data, Dataset) else Texts(data, label_column="label", split=split)
    if len(rows.label_names) < 2:
        only = f"one label, {rows.label_names[0]!r}" if rows.label_names else "no labels"
        raise UserError(
            f"evaluator.{option}: the rows of {rows.name} have {only}\n"
            "fix: give texts of two or more labels, and name their column: cse.data.Texts(..., label_column=...)"
        )
    return rows, [row.texts[0] for row in rows], [rows.label_names[row.label or 0] for row in rows]
