"""STS: rank correlation of cosines and gold scores, as the field reports it, under three aggregations.

A model that was trained by distance is scored by distance.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cse.errors import UserError
from cse.evaluation import geometry
from cse.evaluation.encoding import Compare, Embed, checked, comparison, cosine, embedder
from cse.evaluation.evaluator import Answer, EvalResult, Measure, RowEvaluator
from cse.evaluation.evaluators import sts_rows, transfer
from cse.evaluation.evaluators.sts_rows import POOLED, Missing, Pairs, TaskData
from cse.evaluation.statistic import Correlation, Vector, correlation
from cse.interfaces import SentenceEncoder


@dataclass(frozen=True)
class TaskScore:
    """A task's scores."""

    all: Correlation  # correlation over the pairs of all subsets together: the headline
    mean: Correlation  # plain mean over subsets
    wmean: Correlation  # mean over subsets weighted by their sizes
    subsets: Mapping[str, Correlation]  # correlation of each subset
    sizes: Mapping[str, int]  # number of pairs in each subset
    cosine: Vector  # (n,) similarity of every pair, subset after subset: the cosine, or the negative Euclidean distance
    gold: Vector  # (n,) gold score of every pair


@dataclass(frozen=True)
class Scores:
    """The scores of one encoder on STS tasks."""

    tasks: Mapping[str, TaskScore]  # the scores, by task
    row: Mapping[str, int]  # the row of `vectors` of each distinct sentence
    vectors: NDArray[np.floating]  # (n, D), one row per distinct sentence


@dataclass(eq=False, repr=False)
class STSEvaluator(RowEvaluator):
    """Spearman x 100 ("all") of each task, and their average as `dev`.

    Args:
        tasks: Names of tasks and groups, separated by commas.
        data: A folder with their rows; None: CSE_DATA, the Hub, or the shipped sets.
        precision: fp32, bf16, or auto: bf16 where native.
        prompt: The name of the encoder's prompt that is put before both texts; None: the encoder's default prompt.

    Attributes:
        missing: The reason why a task has no rows, by task; only of evaluators that `of_found` made.

    Raises:
        UserError: A task is unknown or its data are missing, so that a run stops before its first step.
    """

    primary = "dev"

    tasks: str = "sts-mini-dev"
    data: str | None = None
    precision: str = "auto"
    prompt: str | None = None

    def __post_init__(self) -> None:
        self.name, self._progress = self.tasks, False
        self._found, self.missing = read_data(self.tasks, self.data, options=("evaluator.tasks", "evaluator.data"))
        for name, reason in self.missing.items():
            raise UserError(f"evaluator.tasks: no data for {name}: {reason}\nfix: set evaluator.data or CSE_DATA")

    @classmethod
    def of_found(
        cls,
        tasks: str,
        data: str | None = None,
        *,
        precision: str = "auto",
        prompt: str | None = None,
        check: bool = True,
        progress: bool = False,
    ) -> STSEvaluator:
        """An evaluator on those of the tasks whose rows are found; `check` refuses rows that are not the known sets."""
        made = cls.__new__(cls)
        made.data, made.precision, made.prompt, made._progress = data, precision, prompt, progress
        made.name = made.tasks = tasks
        made._found, made.missing = read_data(tasks, data, check=check)
        return made

    def score(self, encoder: SentenceEncoder) -> Scores:
        """The scores of an encoder, and the vectors that they are computed from."""
        embed = embedder(encoder, self.precision, self._progress, self.prompt)
        return score_all({name: data.subsets for name, data in self._found.items()}, embed, comparison(encoder))

    def answer(self, encoder: SentenceEncoder) -> Answer:
        scores = self.score(encoder)
        by_task = {name: task.all.spearman for name, task in scores.tasks.items()}
        average = {"dev": sum(by_task.values()) / len(by_task)} if by_task else {}
        findings = [_result(self._found[name], score) for name, score in scores.tasks.items()]
        return Answer(average | by_task, findings, partial(self._facts, scores))

    def measure(self, encoder: SentenceEncoder) -> list[EvalResult]:
        return self.answer(encoder).findings

    def _facts(self, scores: Scores) -> dict[str, Any]:
        """Give what results.json has of STS tasks, of the space of vectors, and the number of sentences."""
        if not scores.tasks:
            return {}
        subsets = {name: self._found[name].subsets for name in scores.tasks}
        cosines = {name: score.cosine for name, score in scores.tasks.items()}
        return {
            "tasks": {name: _details(self._found[name], score) for name, score in scores.tasks.items()},
            "geometry": geometry.measure(scores.vectors, scores.row, subsets, cosines),
            "sentences": {"total": 2 * sum(map(len, cosines.values())), "unique": len(scores.row)},
        }

    def texts(self, data: str | None = None) -> dict[str, list[tuple[str, ...]]]:
        """Rows of every evaluation set on this machine, in which `cse.data.checks` looks for the training text.

        Nothing is fetched. Sets whose size is not the known one are included: only their text matters here.

        Args:
            data: A folder with evaluation sets, in addition to those in CSE_DATA and the shipped ones.

        Raises:
            UserError: There is no such folder, or a set in it is malformed.
        """
        sts_rows.folders(data, "--eval-data")
        data = data or self.data
        found: dict[str, list[tuple[str, ...]]] = {}
        for name, task in sts_rows.tasks().items():
            with contextlib.suppress(Missing):
                subsets = sts_rows.load(task, data, check=False, hub=False).subsets.values()
                found[name] = [row for pairs in subsets for row in zip(pairs.first, pairs.second, strict=True)]
        for name in transfer.specs():
            with contextlib.suppress(Missing):
                splits = transfer.load(name, data, check=False).splits
                found[name] = [row.texts for rows in splits.values() for row in rows]
        return found


def read_data(
    tasks: str, data: str | None, *, check: bool = True, options: tuple[str, str] = ("--tasks", "--data")
) -> tuple[dict[str, TaskData], dict[str, str]]:
    """The rows of the tasks whose data were found, and the reason for each of the others.

    `options` are those that gave the first two, for messages.

    Raises:
        UserError: A task is unknown, there is no such folder, or rows are malformed.
    """
    sts_rows.folders(data, options[1])  # also where the package has the rows itself
    found, missing = {}, {}
    for task in sts_rows.resolve(tasks, options[0]):
        try:
            found[task.name] = sts_rows.load(task, data, check=check)
        except Missing as reason:
            missing[task.name] = str(reason)
    return found, missing


def score_all(tasks: Mapping[str, Mapping[str, Pairs]], embed: Embed, compare: Compare = cosine) -> Scores:
    """Score tasks that share one pass of the encoder over the union of their sentences.

    Raises:
        UserError: The model returns nan or the wrong number of vectors, or a correlation is undefined.
    """
    row: dict[str, int] = {}
    for pairs in chain.from_iterable(subsets.values() for subsets in tasks.values()):
        for text in chain(pairs.first, pairs.second):
            row.setdefault(text, len(row))
    texts = list(row)
    vectors = checked(embed(texts), texts) if texts else np.zeros((0, 0))  # (n, D)
    scores = {}
    for name, subsets in tasks.items():
        similarity = {
            subset: compare(vectors, [row[text] for text in pairs.first], [row[text] for text in pairs.second])
            for subset, pairs in subsets.items()
        }
        scores[name] = task_score(similarity, {subset: pairs.gold for subset, pairs in subsets.items()}, name)
    return Scores(scores, row, vectors)


def task_score(cosines: Mapping[str, Vector], golds: Mapping[str, Vector], name: str = "task") -> TaskScore:
    """Aggregate cosines and gold scores by subset."""
    sizes = {subset: len(gold) for subset, gold in golds.items()}
    subsets = {subset: correlation(cosines[subset], golds[subset], f"{name}, subset {subset}") for subset in golds}
    pooled, gold = np.concatenate(list(cosines.values())), np.concatenate(list(golds.values()))
    mean, wmean = _mean(subsets, dict.fromkeys(subsets, 1)), _mean(subsets, sizes)
    return TaskScore(correlation(pooled, gold, name), mean, wmean, subsets, sizes, pooled, gold)


def _mean(scores: Mapping[str, Correlation], weights: Mapping[str, int]) -> Correlation:
    total = sum(weights.values())
    return Correlation(
        spearman=sum(scores[s].spearman * weights[s] for s in scores) / total,
        pearson=sum(scores[s].pearson * weights[s] for s in scores) / total,
    )


def _result(data: TaskData, score: TaskScore) -> EvalResult:
    of = ("cosine", "gold")
    return EvalResult(
        name=data.task.name,
        kind="sts",
        primary="spearman",
        measures={name: Measure(getattr(score.all, name), name, of) for name in ("spearman", "pearson")},
        arrays={"cosine": score.cosine, "gold": score.gold},
        unit="pairs",
        sha256=data.source.sha256,
        where=data.source.where,
    )


def _details(data: TaskData, score: TaskScore) -> dict[str, Any]:
    """Give what results.json has of an STS task besides the entry of any task."""
    known = list(score.subsets) != [POOLED]
    return {
        "task": data.task.name,
        "split": data.task.split,
        "version": data.task.version,
        "license": data.task.license,
        "aggregation": "all",
        "all": asdict(score.all),
        "mean": asdict(score.mean) if known else None,
        "wmean": asdict(score.wmean) if known else None,
        "subsets": {s: {"n": score.sizes[s], **asdict(c)} for s, c in score.subsets.items()} if known else {},
        "data": asdict(data.source),
        "worst": geometry.worst(data.subsets, score.cosine, score.gold),
    }
