"""Compare two models: is B better than A, or is it the luck of the pairs? `cse eval compare A B`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from cse.encoder.device import Device
from cse.errors import UserError
from cse.evaluation import statistic
from cse.evaluation.evaluator import EvalResult, resampled
from cse.evaluation.reports.table import AVERAGE, Table, make_console, title
from cse.evaluation.results import Scored
from cse.evaluation.scoring import Wanted, evaluate
from cse.evaluation.statistic import Vector
from cse.files import name_of

ALPHA, ALL = 0.05, "all"
NO_DIFFERENCE = "no difference shown"


@dataclass(frozen=True)
class Difference:
    """B minus A by one measure on one task."""

    a: float  # score of A
    b: float  # score of B
    interval: tuple[float, float]  # the 95 % interval of the resampled differences
    p: float  # two-sided p-value
    adjusted: float  # `p` after Holm's correction over everything compared
    metric: str = "spearman"  # the measure, such as `spearman` or `ndcg@10`
    n: int = 0  # number of units (pairs, queries, ...) of the task

    @property
    def verdict(self) -> str:
        """The conclusion in words."""
        if self.adjusted >= ALPHA:
            return NO_DIFFERENCE
        return "B is better" if self.b > self.a else "A is better"


def compare(
    a: Scored | str | PathLike[str],
    b: Scored | str | PathLike[str],
    *,
    tasks: Wanted | None = None,
    data: str | None = None,
    device: Device = "auto",
    precision: str = "auto",
    check: bool = True,
    prompt: str | None = None,
    measures: str | None = None,
    resamples: int = 8_000,
) -> dict[str, Difference]:
    """Test whether B is better than A on each task: paired bootstrap, Holm's correction over tasks.

    Args:
        a: A result of `evaluate`, a results.json, a folder that contains one, or a run or another checkpoint, which is
            scored first.
        b: Same as `a`; differences are B minus A.
        tasks: What a checkpoint is scored on; see `evaluate` for this and the next three.
        data: A folder with the rows of the tasks.
        device: The device to run on: auto, cpu, cuda or mps; `auto` is the accelerator of this machine, or the CPU.
        precision: fp32, bf16 or auto.
        check: Whether to refuse rows that are not the known sets.
        prompt: Prompt of the checkpoints; an evaluator has its own. None: their default prompts.
        measures: Measures to compare on each task, separated by commas, or all; each has its own entry TASK/MEASURE.
            None: the headline of each task, whose entry is named after the task.
        resamples: Number of resamples of the units: pairs, queries, ...

    Returns:
        Differences by task, and of the averages if both have the same complete set of tasks of one metric. `verdict`
        is in words.

    Raises:
        UserError: `a` and `b` have no task or measure in common, or were scored on different rows.
    """
    options = {"data": data, "device": device, "precision": precision, "check": check, "prompt": prompt}
    return compare_all([read_or_score(name, tasks, **options) for name in (a, b)], resamples, measures)[0, 1]


def read_or_score(name: Scored | str | PathLike[str], tasks: Wanted | None = None, **options: Any) -> Scored:
    """A results file, read; a folder that holds results.json and no model, likewise; a checkpoint, scored."""
    if isinstance(name, Scored):
        return name
    path = Path(name_of(name))
    if path.is_file():
        return Scored.read(path)
    if (path / "results.json").is_file() and not (path / "config.json").is_file():
        return Scored.read(path / "results.json")
    return evaluate(name_of(name), tasks, **options)


def compare_all(
    models: Sequence[Scored], resamples: int = statistic.RESAMPLES, measures: str | None = None
) -> dict[tuple[int, int], dict[str, Difference]]:
    """Differences of every two models, all on the same resamples; the key (i, j) is model j minus model i, for i < j.

    If there are more than two models, pairs of them without rows in common are left out. See `compare` for `measures`.
    """
    drawn: dict[tuple[str, str, str], dict[int, Vector]] = {}
    for task in dict.fromkeys(t for m in models for t in m.findings):
        for rows in dict.fromkeys(m.findings[task].sha256 for m in models if task in m.findings):
            who = [i for i, m in enumerate(models) if task in m.findings and m.findings[task].sha256 == rows]
            findings = [models[i].findings[task] for i in who]
            for measure in _measures(findings, measures):
                sample = resampled(findings, measure, resamples)
                drawn[task, rows, measure] = dict(zip(who, sample, strict=True))
    found = {}
    for i, a in enumerate(models):
        for j in range(i + 1, len(models)):
            tasks = _common(a, models[j], strict=len(models) == 2)
            samples = {
                (task, measure): at[j] - at[i]
                for (task, rows, measure), at in drawn.items()
                if task in tasks and i in at and j in at and rows == a.findings[task].sha256
            }
            if samples:
                found[i, j] = _differences(a, models[j], samples, headline=measures is None)
    if len(models) == 2 and not found:
        raise UserError(
            f"{models[0].name} and {models[1].name} have no measure {measures!r} in common\n"
            f"fix: name some of {', '.join(dict.fromkeys(k for f in models[0].findings.values() for k in f.measures))}"
        )
    return found


def _measures(findings: Sequence[EvalResult], wanted: str | None) -> list[str]:
    """The measures to compare that all of these have."""
    first = findings[0]
    names = [first.primary] if wanted is None else list(first.measures)
    if wanted not in (None, ALL):
        asked = [part.strip() for part in str(wanted).split(",")]
        names = [name for name in names if name in asked]
    return [name for name in names if all(name in f.measures for f in findings)]


def _common(a: Scored, b: Scored, strict: bool) -> list[str]:
    tasks = [task for task in a.findings if task in b.findings]
    other = [task for task in tasks if a.findings[task].sha256 != b.findings[task].sha256]
    if strict and (other or not tasks):
        what = f"{other[0]} was scored on different rows" if other else "they share no task"
        raise UserError(
            f"{a.name} and {b.name} cannot be compared: {what}\nfix: score both with the same --tasks and --data"
        )
    return [task for task in tasks if task not in other]


def _differences(
    a: Scored, b: Scored, samples: Mapping[tuple[str, str], Vector], *, headline: bool
) -> dict[str, Difference]:
    drawn, values, units = dict[str, Vector](), dict[str, tuple[str, float, float]](), dict[str, int]()
    for (task, measure), sample in samples.items():
        name = task if headline else f"{task}/{measure}"
        of = [model.findings[task] for model in (a, b)]
        drawn[name], units[name] = sample, of[0].n
        values[name] = measure, of[0].measures[measure].value, of[1].measures[measure].value
    means = [model.results["average"].get("value") for model in (a, b)]
    if headline and len(drawn) > 1 and set(a.findings) == set(b.findings) == set(drawn) and None not in means:
        metric = next(iter(values.values()))[0]
        drawn[AVERAGE], units[AVERAGE] = np.mean(list(drawn.values()), axis=0), sum(units.values())
        values[AVERAGE] = metric, means[0], means[1]
    p = {name: statistic.p_value(d[~np.isnan(d)]) for name, d in drawn.items()}
    adjusted = statistic.holm(p)
    found = {}
    for name, (metric, x, y) in values.items():
        low, high = statistic.interval(drawn[name])
        found[name] = Difference(x, y, (low, high), p[name], adjusted[name], metric, units[name])
    return found


def show(a: Scored, b: Scored, found: Mapping[str, Difference], console: Console | None = None) -> None:
    """Print the table."""
    console = console or make_console()
    console.print(f"A  {a.name}\nB  {b.name}", markup=False, highlight=False)
    rows = []
    for name, d in found.items():
        bounds = f"{d.interval[0]:+.2f} {d.interval[1]:+.2f}"
        scores = f"{d.a:.2f}", f"{d.b:.2f}", f"{d.b - d.a:+.2f}"
        rows.append([name, d.metric, *scores, bounds, f"{d.adjusted:.4f}", d.verdict])
    heads, what = (
        ("task", "metric", "A", "B", "B - A", "95 %", "p (Holm)", ""),
        title([d.metric for d in found.values()]),
    )
    table = Table(heads, rows, ("task", "metric", ""), f"{what}, B - A", totals=int(AVERAGE in found))
    console.print(table.terminal())
    if a.results["precision"] != b.results["precision"]:
        console.print(f"note: A ran in {a.results['precision']}, B in {b.results['precision']}", highlight=False)
    headline = found.get(AVERAGE) or (next(iter(found.values())) if len(found) == 1 else None)
    console.print(f"verdict: {headline.verdict if headline else 'no average: see the tasks'}", highlight=False)


def as_dict(a: Scored, b: Scored, found: Mapping[str, Difference]) -> dict[str, Any]:
    """The comparison as JSON."""
    rows = {}
    for name, d in found.items():
        scores = {"metric": d.metric, "n": d.n, "a": d.a, "b": d.b, "difference": d.b - d.a}
        rows[name] = {**scores, "interval": list(d.interval), "p": d.p, "p_holm": d.adjusted, "verdict": d.verdict}
    return {"a": a.results["model"], "b": b.results["model"], "differences": rows}
