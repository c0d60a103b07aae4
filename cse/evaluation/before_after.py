"""Did training help? Scores of an encoder before training and of later checkpoints, paired, in one table."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cse.errors import UserError
from cse.evaluation import describe, sources, suite
from cse.evaluation.comparison import AVERAGE, NO_DIFFERENCE, Difference, compare_all
from cse.evaluation.harness import Outcome
from cse.evaluation.results import Scored
from cse.evaluation.sources import Missing

DEV, GENERAL = "dev", "general"
MERGE_SHARE = 0.5  # the share that a run proposes after a loss, the default of WiSE-FT (arXiv:2109.01903)


@dataclass(frozen=True)
class Row:
    """One line of the table: a checkpoint against the encoder before training, on one task or on the mean of a set.

    Attributes:
        checkpoint: Name of the checkpoint's folder in the run.
        part: What the scores are of: `dev`, which selected the checkpoint, or `general`.
        task: The task; `average` is the mean of several; the name of the score for an evaluator without pairs.
        before: The score before training.
        after: The score of the checkpoint.
        headline: Whether the row stands for its whole part.
        pairs: Number of pairs; None for an evaluator without pairs.
        interval: The 95 % interval of the difference, from resampled pairs; None without pairs.
        p: Two-sided p-value after Holm's correction over the rows of the part; None without pairs.
        verdict: `better`, `worse`, `no difference shown`, or `no interval`.
    """

    checkpoint: str
    part: str
    task: str
    before: float
    after: float
    headline: bool = True
    pairs: int | None = None
    interval: tuple[float, float] | None = None
    p: float | None = None
    verdict: str = "no interval"

    @property
    def difference(self) -> float:
        """After minus before."""
        return self.after - self.before

    def as_dict(self) -> dict[str, Any]:
        """For helped.json."""
        names = ("checkpoint", "part", "task", "headline", "pairs", "before", "after", "difference", "p", "verdict")
        return {name: getattr(self, name) for name in names} | {"interval": list(self.interval or []) or None}


def general_tasks(data: str | None, *, apart_from: Sequence[str] = ()) -> list[str]:
    """The tasks of the general set: the shipped pairs, and those of STS whose rows are on this machine.

    Args:
        data: A folder with rows of STS, in addition to CSE_DATA.
        apart_from: Tasks to leave out: those of the dev set.
    """
    names = []
    for task in suite.resolve("sts,sts-mini"):
        # A folder may hold anything under these names; what cannot be read does not stop a run for a table.
        with contextlib.suppress(Missing, UserError):
            if task.name not in apart_from:
                sources.load(task, data, hub=False)
                names.append(task.name)
    return names


def scored(name: str, outcomes: Sequence[Outcome], precision: str) -> Scored:
    """What was scored of one encoder, in the form of results.json.

    Args:
        name: A name of the encoder.
        outcomes: Its scores, on tasks that are all different.
        precision: The precision in which it ran.
    """
    merged = Outcome(
        requested=",".join(o.requested for o in outcomes),
        data={task: rows for o in outcomes for task, rows in o.data.items()},
        scores={task: score for o in outcomes for task, score in o.scores.items()},
        missing={},
    )
    about = {"name": name, "sha256": None, "loader": "cse", "max_length": None, "prompt": None}
    found = describe.build(merged, about, precision, resamples=0)
    cosine = {task: score.cosine for task, score in merged.scores.items()}
    return Scored(name, found, cosine, {task: score.gold for task, score in merged.scores.items()})


def compare_part(part: str, tasks: Sequence[str], before: Scored, after: Sequence[Scored]) -> list[Row]:
    """The rows of one part of the table for every checkpoint.

    Args:
        part: `dev` or `general`.
        tasks: The tasks of the part.
        before: Scores before training.
        after: Scores of checkpoints, each named as its folder.

    Raises:
        UserError: The rows of a task are not those that were scored before training.
    """
    rows = []
    models = [_of(model, tasks) for model in (before, *after)]
    for model in models[1:]:
        if any(_sha256(model, task) != _sha256(models[0], task) for task in tasks):
            raise UserError(f"the rows of {', '.join(tasks)} have changed since the run began\nfix: restore them")
    found = compare_all(models)
    for i, model in enumerate(models[1:], start=1):
        differences = found[0, i]
        headline = AVERAGE if AVERAGE in differences else tasks[0]
        for task, d in differences.items():
            pairs = sum(len(model.gold[t]) for t in (tasks if task == AVERAGE else [task]))
            verdict = _verdict(d)
            rows.append(Row(model.name, part, task, d.a, d.b, task == headline, pairs, d.interval, d.adjusted, verdict))
    return rows


def lines(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """The table as a run prints it: a key and a text per line, with the headlines of every checkpoint."""
    shown = [row for row in rows if row.headline]
    names = {(row.checkpoint, row.part): _label(row, rows) for row in shown}
    width = max(map(len, [*names.values(), "Spearman × 100"]))
    columns = f"{'pairs':>7s} {'before':>7s} {'after':>7s} {'change':>7s}   {'95 % of the change':18s}  verdict"
    found = [("helped", f"{'Spearman × 100':{width}s} {columns}")]
    last = ""
    for row in shown:
        pairs = "" if row.pairs is None else f"{row.pairs:,}"
        bounds = "" if row.interval is None else "{:+.2f} to {:+.2f}".format(*row.interval)
        figures = f"{pairs:>7s} {row.before:7.2f} {row.after:7.2f} {row.difference:+7.2f}   {bounds:18s}  {row.verdict}"
        key = "" if row.checkpoint == last else f"{row.checkpoint}/"
        found.append((key, f"{names[row.checkpoint, row.part]:{width}s} {figures}"))
        last = row.checkpoint
    return found


def verdicts(rows: Sequence[Row]) -> list[str]:
    """One sentence per checkpoint."""
    found = []
    for checkpoint in dict.fromkeys(row.checkpoint for row in rows):
        shown = [row for row in rows if row.headline and row.checkpoint == checkpoint]
        if all(row.difference == 0 for row in shown):
            found.append(f"{checkpoint}/ has the scores of the encoder before training")
            continue
        found.append(f"{checkpoint}/: " + "; ".join(f"on {row.part} {_words(row)}" for row in shown))
    return found


def warnings(rows: Sequence[Row]) -> list[str]:
    """Where the general score fell, in words."""
    found = []
    for checkpoint in dict.fromkeys(row.checkpoint for row in rows):
        mine = [row for row in rows if row.checkpoint == checkpoint and row.part == GENERAL]
        fell = [row for row in mine if row.verdict == "worse"]
        for row in fell if not any(row.headline for row in fell) else [row for row in fell if row.headline]:
            low, high = row.interval or (0.0, 0.0)
            what = "the general set" if row.headline else f"the general task {row.task}"
            found.append(
                f"{checkpoint}/ is worse than the encoder before training on {what}: {row.before:.2f} before, "
                f"{row.after:.2f} after ({row.difference:+.2f}; 95 % {low:+.2f} to {high:+.2f})"
            )
    return found


def _of(model: Scored, tasks: Sequence[str]) -> Scored:
    """The model with these tasks only."""
    scores: Mapping[str, Any] = {task: model.results["tasks"][task] for task in tasks}
    mean = sum(task["all"]["spearman"] for task in scores.values()) / len(scores)
    results = {**model.results, "tasks": scores, "average": {"all": {"spearman": mean}}}
    return Scored(model.name, results, {t: model.cosine[t] for t in tasks}, {t: model.gold[t] for t in tasks})


def _sha256(model: Scored, task: str) -> str:
    return str(model.results["tasks"][task]["data"]["sha256"])


def _verdict(difference: Difference) -> str:
    return {"B is better": "better", "A is better": "worse"}.get(difference.verdict, NO_DIFFERENCE)


def _label(row: Row, rows: Sequence[Row]) -> str:
    tasks = [r.task for r in rows if (r.checkpoint, r.part) == (row.checkpoint, row.part) and r.task != AVERAGE]
    return f"{row.part}: {tasks[0] if len(tasks) == 1 else f'mean of {len(tasks)} sets'}"


def _words(row: Row) -> str:
    if row.verdict == "no interval":
        return f"{row.difference:+.2f} (without pairs, it has no interval)"
    return f"{row.verdict} ({row.difference:+.2f})"
