"""Compare two models: is B better than A, or is it the luck of the pairs? `cse eval compare A B`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from cse.errors import UserError
from cse.evaluation import significance
from cse.evaluation.results import Scored
from cse.evaluation.scoring import evaluate
from cse.evaluation.sts import Vector
from cse.evaluation.table import make_console

ALPHA = 0.05
AVERAGE = "average"
NO_DIFFERENCE = "no difference shown"


@dataclass(frozen=True)
class Difference:
    """B minus A on one task.

    Attributes:
        a: Score of A.
        b: Score of B.
        interval: The 95 % interval of the resampled differences.
        p: Two-sided p-value.
        adjusted: `p` after Holm's correction over everything compared.
    """

    a: float
    b: float
    interval: tuple[float, float]
    p: float
    adjusted: float

    @property
    def verdict(self) -> str:
        """The conclusion in words."""
        if self.adjusted >= ALPHA:
            return NO_DIFFERENCE
        return "B is better" if self.b > self.a else "A is better"


def compare(
    a: Scored | str | Path,
    b: Scored | str | Path,
    *,
    tasks: str | None = None,
    data: str | None = None,
    precision: str = "auto",
    check: bool = True,
    resamples: int = 4 * significance.RESAMPLES,
) -> dict[str, Difference]:
    """Differences by task, and of the averages if both have the same complete set of tasks.

    Args:
        a: A result of `evaluate`, a results.json, a folder that contains one, or a checkpoint, which is scored first.
        b: Same as `a`; differences are B minus A.
        tasks: The tasks that a checkpoint is scored on; see `evaluate` for this and the next three.
        data: A folder with the rows of the tasks.
        precision: fp32, bf16 or auto.
        check: Whether to refuse rows that are not the known sets.
        resamples: Number of resamples of the pairs.

    Raises:
        UserError: `a` and `b` have no task in common, or were scored on different rows.
    """
    both = [read_or_score(name, tasks, data=data, precision=precision, check=check) for name in (a, b)]
    return compare_all(both, resamples)[0, 1]


def read_or_score(
    name: Scored | str | Path,
    tasks: str | None = None,
    *,
    data: str | None = None,
    precision: str = "auto",
    check: bool = True,
    progress: bool = False,
) -> Scored:
    """A results file, read; a folder that holds results.json and no model, likewise; a checkpoint, scored."""
    if isinstance(name, Scored):
        return name
    path = Path(name)
    if path.is_file():
        return Scored.read(path)
    if (path / "results.json").is_file() and not (path / "config.json").is_file():
        return Scored.read(path / "results.json")
    return evaluate(name, tasks, data=data, precision=precision, check=check, progress=progress)


def compare_all(
    models: Sequence[Scored], resamples: int = significance.RESAMPLES
) -> dict[tuple[int, int], dict[str, Difference]]:
    """Differences of every two models, all on the same resamples.

    If there are more than two models, pairs of them without rows in common are left out.

    Args:
        models: The models; the key (i, j) of the result is model j minus model i, for i < j.
        resamples: Number of resamples.
    """
    drawn: dict[tuple[str, str], dict[int, Vector]] = {}
    for task in dict.fromkeys(t for m in models for t in m.cosine):
        for rows in dict.fromkeys(_rows(m, task) for m in models if task in m.cosine):
            who = [i for i, m in enumerate(models) if task in m.cosine and _rows(m, task) == rows]
            arrays = [(models[i].cosine[task], models[i].gold[task]) for i in who]
            sample = significance.bootstrap("spearman", arrays, task, resamples)
            drawn[task, rows] = dict(zip(who, sample, strict=True))
    found = {}
    for i, a in enumerate(models):
        for j in range(i + 1, len(models)):
            tasks = _common(a, models[j], strict=len(models) == 2)
            if tasks:
                at = [drawn[task, _rows(a, task)] for task in tasks]
                found[i, j] = _differences(a, models[j], tasks, [s[j] - s[i] for s in at])
    return found


def _rows(model: Scored, task: str) -> str:
    return str(model.results["tasks"][task]["data"]["sha256"])


def _common(a: Scored, b: Scored, strict: bool) -> list[str]:
    tasks = [task for task in a.cosine if task in b.cosine]
    other = [task for task in tasks if _rows(a, task) != _rows(b, task)]
    if strict and (other or not tasks):
        what = f"{other[0]} was scored on different rows" if other else "they share no task"
        raise UserError(
            f"{a.name} and {b.name} cannot be compared: {what}\nfix: score both with the same --tasks and --data"
        )
    return [task for task in tasks if task not in other]


def _differences(a: Scored, b: Scored, tasks: list[str], samples: list[Vector]) -> dict[str, Difference]:
    scores = {task: tuple(m.results["tasks"][task]["all"]["spearman"] for m in (a, b)) for task in tasks}
    drawn = dict(zip(tasks, samples, strict=True))
    means = tuple(m.results["average"]["all"]["spearman"] for m in (a, b))
    if len(tasks) > 1 and set(a.cosine) == set(b.cosine) == set(tasks) and None not in means:
        scores[AVERAGE], drawn[AVERAGE] = means, np.mean(samples, axis=0)
    p = {name: significance.p_value(d[~np.isnan(d)]) for name, d in drawn.items()}
    adjusted = significance.holm(p)
    found = {}
    for name, (x, y) in scores.items():
        low, high = significance.interval(drawn[name])
        found[name] = Difference(x, y, (low, high), p[name], adjusted[name])
    return found


def show(a: Scored, b: Scored, found: Mapping[str, Difference], console: Console | None = None) -> None:
    """Print the table."""
    console = console or make_console()
    console.print(f"A  {a.name}\nB  {b.name}", markup=False, highlight=False)
    table = Table(title="Spearman × 100, B - A", title_justify="left")
    for column in ("task", "A", "B", "B - A", "95 %", "p (Holm)", ""):
        table.add_column(column, justify="left" if column in {"task", ""} else "right", no_wrap=True)
    for name, d in found.items():
        if name == AVERAGE:
            table.add_section()
        bounds = f"{d.interval[0]:+.2f} {d.interval[1]:+.2f}"
        table.add_row(name, f"{d.a:.2f}", f"{d.b:.2f}", f"{d.b - d.a:+.2f}", bounds, f"{d.adjusted:.4f}", d.verdict)
    console.print(table)
    if a.results["precision"] != b.results["precision"]:
        console.print(f"note: A ran in {a.results['precision']}, B in {b.results['precision']}", highlight=False)
    headline = found.get(AVERAGE) or (next(iter(found.values())) if len(found) == 1 else None)
    console.print(f"verdict: {headline.verdict if headline else 'no average: see the tasks'}", highlight=False)


def as_dict(a: Scored, b: Scored, found: Mapping[str, Difference]) -> dict[str, Any]:
    """The comparison as JSON."""
    rows = {
        name: {
            "a": d.a,
            "b": d.b,
            "difference": d.b - d.a,
            "interval": list(d.interval),
            "p": d.p,
            "p_holm": d.adjusted,
            "verdict": d.verdict,
        }
        for name, d in found.items()
    }
    return {"a": a.results["model"], "b": b.results["model"], "differences": rows}
