"""The one code path from an encoder to scores, for the command line, the evaluator in training and the card."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cse.evaluation import sources, suite
from cse.evaluation.encoding import comparison, embedder
from cse.evaluation.finding import Finding, Measure
from cse.evaluation.sources import Missing, TaskData
from cse.evaluation.sts import Embed, TaskScore, score_all


@dataclass(frozen=True)
class Outcome:
    """Scores of one encoder on a list of tasks.

    Attributes:
        requested: The tasks, as the caller named them.
        data: The rows that were scored, by task.
        scores: The scores, by task.
        missing: The reason why a requested task has no score, by task.
        seconds: The seconds that reading, encoding and scoring took.
        row: The row of `vectors` of each distinct sentence.
        vectors: (n, D), one row per distinct sentence.
    """

    requested: str
    data: Mapping[str, TaskData]
    scores: Mapping[str, TaskScore]
    missing: Mapping[str, str]
    seconds: Mapping[str, float] = field(default_factory=dict)
    row: Mapping[str, int] = field(default_factory=dict)
    vectors: NDArray[np.floating] | None = None

    @property
    def findings(self) -> list[Finding]:
        """The scores with what they are computed from."""
        return [_finding(self.data[name], score) for name, score in self.scores.items()]

    @property
    def average(self) -> float | None:
        """Mean of the tasks' headline scores; None unless every requested task has one."""
        if self.missing or not self.scores:
            return None
        return sum(s.all.spearman for s in self.scores.values()) / len(self.scores)


def _finding(data: TaskData, score: TaskScore) -> Finding:
    of = ("cosine", "gold")
    return Finding(
        name=data.task.name,
        kind="sts",
        primary="spearman",
        measures={name: Measure(getattr(score.all, name), name, of) for name in ("spearman", "pearson")},
        arrays={"cosine": score.cosine, "gold": score.gold},
        unit="pairs",
        sha256=data.source.sha256,
        where=data.source.where,
    )


def read_data(
    tasks: str, data: str | None, *, check: bool = True, options: tuple[str, str] = ("--tasks", "--data")
) -> tuple[dict[str, TaskData], dict[str, str]]:
    """The rows of the tasks whose data were found, and the reason for each of the others.

    Args:
        tasks: Names of tasks and groups, separated by commas.
        data: A folder with their rows.
        check: Whether to refuse data that are not the known sets.
        options: The options that gave the first two, for messages.

    Raises:
        UserError: A task is unknown, there is no such folder, or rows are malformed.
    """
    sources.folders(data, options[1])  # also where the package has the rows itself
    found, missing = {}, {}
    for task in suite.resolve(tasks, options[0]):
        try:
            found[task.name] = sources.load(task, data, check=check)
        except Missing as reason:
            missing[task.name] = str(reason)
    return found, missing


def score_tasks(
    encoder: Any,
    tasks: str,
    data: str | None = None,
    *,
    precision: str = "auto",
    check: bool = True,
    progress: bool = False,
    prompt: str | None = None,
) -> Outcome:
    """Score an encoder.

    Args:
        encoder: Anything with `encode`; see `cse.interfaces.SentenceEncoder`.
        tasks: Names of tasks and groups, separated by commas.
        data: A folder with their rows; None: CSE_DATA, or the Hub.
        precision: fp32, bf16 or auto.
        check: Whether to refuse data that are not the known sets.
        progress: Whether to show a bar while encoding.
        prompt: The name of the encoder's prompt that is put before every text; None: the encoder's default prompt.

    Raises:
        UserError: The data are malformed or the model's output is unusable.
    """
    start = time.perf_counter()
    found, missing = read_data(tasks, data, check=check)
    return score_data(
        encoder, tasks, found, missing, precision=precision, progress=progress, prompt=prompt, since=start
    )


def score_data(
    encoder: Any,
    requested: str,
    found: Mapping[str, TaskData],
    missing: Mapping[str, str],
    *,
    precision: str = "auto",
    progress: bool = False,
    prompt: str | None = None,
    since: float | None = None,
) -> Outcome:
    """Score an encoder on rows that were read before; see `score_tasks`."""
    start = time.perf_counter()
    embed = _Kept(embedder(encoder, precision, progress, prompt))
    subsets = {name: item.subsets for name, item in found.items()}
    scores = score_all(subsets, embed, comparison(encoder)) if found else {}
    end = time.perf_counter()
    return Outcome(
        requested=requested,
        data=found,
        scores=scores,
        missing=missing,
        seconds={"read": start - (since or start), "encode": embed.seconds, "score": end - start - embed.seconds},
        row={text: i for i, text in enumerate(embed.texts)},
        vectors=embed.vectors,
    )


class _Kept:
    """An embedding function that remembers what it was asked, what came out and how long it took."""

    def __init__(self, embed: Embed) -> None:
        self.embed, self.texts, self.seconds = embed, list[str](), 0.0
        self.vectors: NDArray[np.floating] | None = None

    def __call__(self, texts: list[str]) -> NDArray[np.floating]:
        start = time.perf_counter()
        self.texts, self.vectors = texts, self.embed(texts)
        self.seconds = time.perf_counter() - start
        return self.vectors
