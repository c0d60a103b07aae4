"""Did training help? Scores of an encoder before training and of later checkpoints, paired, in one table."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cse.assets import resolve
from cse.errors import UserError
from cse.evaluation import scoring
from cse.evaluation.comparison import NO_DIFFERENCE, compare_all
from cse.evaluation.evaluator import Answer, EvalResult
from cse.evaluation.evaluators import sts_rows
from cse.evaluation.evaluators.retrieval import Retrieval
from cse.evaluation.evaluators.sts_rows import Missing
from cse.evaluation.reports.table import AVERAGE, MIXED, title
from cse.evaluation.results import Scored

DEV, OTHER, GENERAL, SEARCH = "dev", "other", "general", "search"
SEARCH_SET = "search-mini"
VERDICTS = {"B is better": "better", "A is better": "worse", NO_DIFFERENCE: NO_DIFFERENCE}
MERGE_SHARE = 0.5  # the share that a run proposes after a loss, the default of WiSE-FT (arXiv:2109.01903)


@dataclass(frozen=True)
class Change:
    """One line of the table: a checkpoint against the encoder before training, on one task or on the mean of a set."""

    checkpoint: str  # name of the checkpoint's folder in the run
    # what the scores are of: `dev`, which selected the checkpoint, `other` rows of the evaluator, or `general`
    part: str
    task: str  # the task; `average` is the mean of several; the name of the score for an evaluator that returns numbers
    before: float  # the score before training
    after: float  # the score of the checkpoint
    headline: bool = True  # whether the row stands for its part, alone or with the headlines of other metrics
    n: int | None = None  # number of pairs, queries or other units; None for an evaluator that returns numbers
    metric: str = ""  # the measure; empty for an evaluator that returns numbers
    # the 95 % interval of the difference, from resampled units; None without them
    interval: tuple[float, float] | None = None
    p: float | None = None  # two-sided p-value after Holm's correction over the rows of the part; None without units
    verdict: str = "no interval"  # `better`, `worse`, `no difference shown`, or `no interval`

    @property
    def difference(self) -> float:
        """After minus before."""
        return self.after - self.before

    def as_dict(self) -> dict[str, Any]:
        """For helped.json."""
        place, scores = ("checkpoint", "part", "task", "headline", "n", "metric"), ("before", "after", "difference")
        found = {name: getattr(self, name) for name in (*place, *scores, "p", "verdict")}
        return found | {"interval": list(self.interval or []) or None}


def general_tasks(data: str | None, *, apart_from: Sequence[str] = ()) -> list[str]:
    """The tasks of the general set: the shipped pairs, and those of STS whose rows are on this machine."""
    names = []
    for task in sts_rows.resolve("sts,sts-mini"):
        # A folder may hold anything under these names; what cannot be read does not stop a run for a table.
        with contextlib.suppress(Missing, UserError):
            if task.name not in apart_from:
                sts_rows.load(task, data, hub=False)
                names.append(task.name)
    return names


def general_search() -> Retrieval:
    """Search in many fields: 40 questions of everyday knowledge and their paraphrases, among 320 texts.

    The documents are the passages of `asset:edits-mini`, those that do not answer, and texts of `asset:labels-mini`.

    Raises:
        UserError: pytrec_eval is not installed.
    """
    read = [resolve(name).read_text(encoding="utf-8").splitlines()[1:] for name in ("edits-mini", "labels-mini")]
    rows = [line.split("\t") for line in read[0]]
    texts = [text for row in rows for text in row[1:3]] + [line.split("\t")[0] for line in read[1]]
    corpus = {text: text for text in texts if text}
    queries = {question: row[1] for row in rows for question in (row[0], row[3]) if question}
    return Retrieval(
        queries={question: question for question in queries},
        corpus=corpus,
        qrels={question: [passage] for question, passage in queries.items()},
        measures=("ndcg@10",),
        name=SEARCH_SET,
    )


def scored(name: str, findings: Sequence[EvalResult], precision: str) -> Scored:
    """Join what was found of one encoder, on tasks that are all different, in the form of results.json."""
    about = {"name": name, "sha256": None, "loader": "cse", "max_length": None, "prompt": None}
    requested = ",".join(finding.name for finding in findings)
    answers = [Answer({}, list(findings))]
    found = scoring.describe(answers, model=about, precision=precision, requested=requested, resamples=0)
    return Scored(name, found, {finding.name: finding for finding in findings})


def compare_part(part: str, tasks: Sequence[str], before: Scored, after: Sequence[Scored]) -> list[Change]:
    """The rows of one part of the table, `dev`, `other` or `general`, for every checkpoint, named as its folder."""
    rows = []
    models = [_of(model, tasks) for model in (before, *after)]
    for model in models[1:]:
        if any(model.findings[task].sha256 != models[0].findings[task].sha256 for task in tasks):
            raise UserError(f"the rows of {', '.join(tasks)} have changed since the run began\nfix: restore them")
    found = compare_all(models)
    for i, model in enumerate(models[1:], start=1):
        differences = found[0, i]
        for task, d in differences.items():
            headline = task == AVERAGE or AVERAGE not in differences
            about = (d.n, d.metric, d.interval, d.adjusted, VERDICTS[d.verdict])
            rows.append(Change(model.name, part, task, d.a, d.b, headline, *about))
    return rows


def lines(rows: Sequence[Change]) -> list[tuple[str, str]]:
    """The table as a run prints it: a key and a text per line, with the headlines of every checkpoint."""
    shown = [row for row in rows if row.headline]
    what = title(row.metric for row in shown if row.metric)
    names = {id(row): _label(row, rows, named=what == MIXED) for row in shown}
    width = max(map(len, [*names.values(), what]))
    columns = f"{'n':>7s} {'before':>7s} {'after':>7s} {'change':>7s}   {'95 % of the change':18s}  verdict"
    found = [("helped", f"{what:{width}s} {columns}")]
    last = ""
    for row in shown:
        n = "" if row.n is None else f"{row.n:,}"
        bounds = "" if row.interval is None else "{:+.2f} to {:+.2f}".format(*row.interval)
        figures = f"{n:>7s} {row.before:7.2f} {row.after:7.2f} {row.difference:+7.2f}   {bounds:18s}  {row.verdict}"
        key = "" if row.checkpoint == last else f"{row.checkpoint}/"
        found.append((key, f"{names[id(row)]:{width}s} {figures}"))
        last = row.checkpoint
    return found


def verdicts(rows: Sequence[Change]) -> list[str]:
    """One sentence per checkpoint."""
    found = []
    for checkpoint in dict.fromkeys(row.checkpoint for row in rows):
        shown = [row for row in rows if row.headline and row.checkpoint == checkpoint]
        if all(row.difference == 0 for row in shown):
            found.append(f"{checkpoint}/ has the scores of the encoder before training")
            continue
        found.append(f"{checkpoint}/: " + "; ".join(f"on {_place(row, shown)} {_words(row)}" for row in shown))
    return found


def warnings(rows: Sequence[Change]) -> list[str]:
    """Say where the general score fell."""
    found = []
    for checkpoint in dict.fromkeys(row.checkpoint for row in rows):
        mine = [row for row in rows if row.checkpoint == checkpoint and row.part in {GENERAL, SEARCH}]
        fell = [row for row in mine if row.verdict == "worse"]
        for row in fell if not any(row.headline for row in fell) else [row for row in fell if row.headline]:
            low, high = row.interval or (0.0, 0.0)
            what = f"the {row.part} set" if row.headline else f"the general task {row.task}"
            found.append(
                f"{checkpoint}/ is worse than the encoder before training on {what}: {row.before:.2f} before, "
                f"{row.after:.2f} after ({row.difference:+.2f}; 95 % {low:+.2f} to {high:+.2f})"
            )
    return found


def _of(model: Scored, tasks: Sequence[str]) -> Scored:
    """The model with these tasks only."""
    scores: Mapping[str, Any] = {task: model.results["tasks"][task] for task in tasks}
    values = [task["value"] for task in scores.values()]
    mean = sum(values) / len(values) if len({task["metric"] for task in scores.values()}) == 1 else None
    results = {**model.results, "tasks": scores, "average": {"value": mean}}
    return Scored(model.name, results, {task: model.findings[task] for task in tasks})


def _label(row: Change, rows: Sequence[Change], *, named: bool) -> str:
    metric = f" {row.metric}" if named and row.metric else ""
    if row.task != AVERAGE:
        return f"{row.part}: {row.task}{metric}"
    tasks = [r for r in rows if (r.checkpoint, r.part) == (row.checkpoint, row.part) and r.task != AVERAGE]
    return f"{row.part}: mean of {len(tasks)} sets{metric}"


def _place(row: Change, shown: Sequence[Change]) -> str:
    return row.part if sum(other.part == row.part for other in shown) == 1 else f"{row.part} {row.task}"


def _words(row: Change) -> str:
    if row.verdict == "no interval":
        return f"{row.difference:+.2f} (without pairs, it has no interval)"
    return f"{row.verdict} ({row.difference:+.2f})"
