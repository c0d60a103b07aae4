"""The scores of a folder of runs as rows of cells: what the Markdown file and the page of a report both show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cse.evaluation.reports.collect import Entry, by_recipe, spread


@dataclass(frozen=True)
class Cell:
    """A score.

    Attributes:
        text: The score with two decimals, or a mean ± standard deviation; "-" if it is missing.
        interval: Its 95 % interval, if the results have one.
    """

    text: str = "-"
    interval: str = ""


@dataclass(frozen=True)
class Row:
    """A checkpoint, or the mean over the seeds of a recipe.

    Attributes:
        label: Name of the checkpoint or recipe.
        seed: Seed of the run; for a recipe, the number of its seeds in words.
        cells: One per task, then the average.
        is_mean: Whether the row is that of a recipe.
        is_best: Whether no other checkpoint has a higher average.
    """

    label: str
    seed: str
    cells: list[Cell]
    is_mean: bool = False
    is_best: bool = False


@dataclass(frozen=True)
class ScoreTable:
    """The scores of one set of tasks, under the name by which the tasks were asked for.

    Attributes:
        requested: That name.
        title: What the scores are: `Spearman × 100 over all pairs`, or the metric of each task.
        tasks: Names of the tasks.
        rows: The checkpoints, then the means over seeds.
    """

    requested: str
    title: str
    tasks: list[str]
    rows: list[Row]


def score_tables(entries: Sequence[Entry]) -> list[ScoreTable]:
    """One table per set of tasks."""
    names = dict.fromkeys(e.requested for e in entries)
    return [_table(name, [e for e in entries if e.requested == name]) for name in names]


def _table(requested: str, entries: Sequence[Entry]) -> ScoreTable:
    tasks = list(dict.fromkeys(t for e in entries for t in (*e.results["tasks"], *e.results["missing"])))
    best = max((e.average for e in entries if e.average is not None), default=None)
    rows = []
    for e in entries:
        cells = [_cell(item) for item in (*(e.results["tasks"].get(task) for task in tasks), e.results["average"])]
        is_best = len(entries) > 1 and e.average is not None and e.average == best
        rows.append(Row(e.label, "-" if e.seed is None else str(e.seed), cells, is_best=is_best))
    for recipe, runs in by_recipe(entries).items():
        values = [[r.results["tasks"][t]["value"] for r in runs if t in r.results["tasks"]] for t in tasks]
        values.append([r.average for r in runs if r.average is not None])
        cells = [Cell(spread(v)) if len(v) > 1 else Cell() for v in values]
        rows.append(Row(recipe, f"{len(runs)} seeds", cells, is_mean=True))
    return ScoreTable(requested, _title(entries), tasks, rows)


def _title(entries: Sequence[Entry]) -> str:
    metrics = {name: str(task["metric"]) for e in entries for name, task in e.results["tasks"].items()}
    if set(metrics.values()) == {"spearman"}:
        return "Spearman × 100 over all pairs"
    if len(set(metrics.values())) == 1:
        return f"{next(iter(metrics.values()))} × 100"
    return f"scores × 100 ({', '.join(f'{name}: {metric}' for name, metric in metrics.items())})"


def _cell(item: Mapping[str, Any] | None) -> Cell:
    if item is None or item["value"] is None:
        return Cell()
    bounds = item.get("interval")
    return Cell(f"{item['value']:.2f}", f"{bounds[0]:.1f} to {bounds[1]:.1f}" if bounds else "")
