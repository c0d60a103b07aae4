"""`python -m eval compare A B`: is B better than A, or is it the luck of the pairs?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from cse.errors import UserError
from cse.evaluation import results, significance
from cse.evaluation.sts import Vector
from cse.evaluation.table import make_console

ALPHA = 0.05
AVERAGE = "average"
NO_DIFFERENCE = "no difference shown"


@dataclass(frozen=True)
class Scored:
    """A results file with its pairs' similarities."""

    name: str
    results: Mapping[str, Any]
    cosine: Mapping[str, Vector]
    gold: Mapping[str, Vector]

    @classmethod
    def read(cls, path: Path) -> Scored:
        """Read results.json and the arrays beside it.

        Raises:
            UserError: One is missing, or they are not of one run.
        """
        found = results.read(path)
        try:
            with np.load(path.with_suffix(".npz")) as arrays:
                stored = {name: arrays[name].astype(np.float64) for name in arrays.files}
            cosine = {task: stored[f"{task}/cosine"] for task in found["tasks"]}
            gold = {task: stored[f"{task}/gold"] for task in found["tasks"]}
        except (OSError, KeyError, ValueError) as error:
            raise UserError(
                f"{path.with_suffix('.npz')} cannot be read: {error}\nScore the checkpoint again."
            ) from None
        return cls(str(found["model"]["name"]), found, cosine, gold)


@dataclass(frozen=True)
class Difference:
    """B minus A on one task.

    Attributes:
        a: Score of A.
        b: Score of B.
        interval: 95 % of the resampled differences.
        p: Two-sided.
        adjusted: By Holm over everything compared.
    """

    a: float
    b: float
    interval: tuple[float, float]
    p: float
    adjusted: float

    @property
    def verdict(self) -> str:
        """In words."""
        if self.adjusted >= ALPHA:
            return NO_DIFFERENCE
        return "B is better" if self.b > self.a else "A is better"


def compare(a: Scored, b: Scored, resamples: int = 4 * significance.RESAMPLES) -> dict[str, Difference]:
    """Differences by task, and on average where both have the same complete set of tasks.

    Raises:
        UserError: They share no task, or were scored on different rows.
    """
    return compare_all([a, b], resamples)[0, 1]


def compare_all(
    models: Sequence[Scored], resamples: int = significance.RESAMPLES
) -> dict[tuple[int, int], dict[str, Difference]]:
    """Differences of every two models, all on the same resamples.

    Of more than two models, those that share no rows are left out.

    Args:
        models: What to compare; the key (i, j) is model j minus model i, for i < j.
        resamples: How many.
    """
    drawn: dict[tuple[str, str], dict[int, Vector]] = {}
    for task in dict.fromkeys(t for m in models for t in m.cosine):
        for rows in dict.fromkeys(_rows(m, task) for m in models if task in m.cosine):
            who = [i for i, m in enumerate(models) if task in m.cosine and _rows(m, task) == rows]
            sample = significance.bootstrap(
                [models[i].cosine[task] for i in who], models[who[0]].gold[task], task, resamples
            )
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
            f"{a.name} and {b.name} cannot be compared: {what}.\nScore both with the same --tasks and --data."
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
    """For a JSON file."""
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
