"""The one code path from an encoder to scores, for the command line, the evaluator in training and the card."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cse.errors import UserError
from eval import sources, suite
from eval.encoding import embedder
from eval.sources import Missing, TaskData
from eval.sts import TaskScore, score_all, unique_texts


@dataclass(frozen=True)
class Outcome:
    """Scores of one encoder on a list of tasks.

    Attributes:
        requested: What was asked for, as it was written.
        data: What was scored.
        scores: By task.
        missing: Why a requested task has no score.
        seconds: How long reading, encoding and scoring took.
        sentences: Of all pairs, and how many distinct ones were encoded.
    """

    requested: str
    data: Mapping[str, TaskData]
    scores: Mapping[str, TaskScore]
    missing: Mapping[str, str]
    seconds: Mapping[str, float] = field(default_factory=dict)
    sentences: Mapping[str, int] = field(default_factory=dict)

    @property
    def average(self) -> float | None:
        """Mean of the tasks' headline scores; None unless every requested task has one."""
        if self.missing or not self.scores:
            return None
        return sum(s.all.spearman for s in self.scores.values()) / len(self.scores)


def read_data(tasks: str, data: str | None, *, check: bool = True) -> tuple[dict[str, TaskData], dict[str, str]]:
    """Rows of the tasks that can be had, and the reasons why the others cannot."""
    found, missing = {}, {}
    for task in suite.resolve(tasks):
        try:
            found[task.name] = sources.load(task, data, check=check)
        except Missing as reason:
            missing[task.name] = str(reason)
    return found, missing


def evaluate(
    encoder: Any,
    tasks: str,
    data: str | None = None,
    *,
    precision: str = "auto",
    check: bool = True,
    progress: bool = False,
) -> Outcome:
    """Score an encoder.

    Args:
        encoder: Anything with `encode`.
        tasks: Names of tasks and groups, separated by commas.
        data: A folder with their rows; None: CSE_DATA, or the Hub.
        precision: fp32, bf16 or auto.
        check: Refuse data that are not the known sets.
        progress: Show a bar while encoding.

    Raises:
        UserError: The data are malformed or the model's output is unusable.
    """
    start = time.perf_counter()
    found, missing = read_data(tasks, data, check=check)
    return evaluate_data(encoder, tasks, found, missing, precision=precision, progress=progress, since=start)


def evaluate_data(
    encoder: Any,
    requested: str,
    found: Mapping[str, TaskData],
    missing: Mapping[str, str],
    *,
    precision: str = "auto",
    progress: bool = False,
    since: float | None = None,
) -> Outcome:
    """Score an encoder on rows that were read before."""
    start = time.perf_counter()
    subsets = {name: item.subsets for name, item in found.items()}
    embed, spent = embedder(encoder, precision, progress), 0.0

    def timed(texts: list[str]) -> Any:
        nonlocal spent
        begin = time.perf_counter()
        vectors = embed(texts)
        spent = time.perf_counter() - begin
        return vectors

    scores = score_all(subsets, timed) if found else {}
    end = time.perf_counter()
    return Outcome(
        requested=requested,
        data=found,
        scores=scores,
        missing=missing,
        seconds={"read": start - (since or start), "encode": spent, "score": end - start - spent},
        sentences={
            "total": sum(2 * len(p) for item in subsets.values() for p in item.values()),
            "unique": len(unique_texts(subsets)),
        },
    )


def require_complete(outcome: Outcome) -> Outcome:
    """The outcome, unless a task is missing.

    Raises:
        UserError: One is.
    """
    if outcome.missing:
        name, reason = next(iter(outcome.missing.items()))
        raise UserError(f"no data for task {name}: {reason}\nGive --data DIR or set CSE_DATA.")
    return outcome
