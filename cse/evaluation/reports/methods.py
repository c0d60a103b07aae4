"""Methods beside each other: mean and spread over seeds, and the difference of each to a baseline."""

from __future__ import annotations

import statistics
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cse.errors import UserError
from cse.evaluation import statistic
from cse.evaluation.comparison import ALPHA, NO_DIFFERENCE
from cse.evaluation.evaluator import resampled
from cse.evaluation.reports.collect import Entry, by_recipe, plus_minus, speed
from cse.evaluation.reports.table import Table
from cse.evaluation.statistic import Vector

SCHEMA = 1


@dataclass(frozen=True)
class Method:
    """Runs that differ by their seed, or one checkpoint without a seed."""

    name: str  # name of the recipe, or of the checkpoint
    runs: list[Entry]  # the runs, in the order of their seeds
    difference: float | None = None  # its mean average minus that of the baseline; None for the baseline
    interval: tuple[float, float] | None = None  # the 95 % interval of the resampled difference
    adjusted: float | None = None  # the two-sided p-value of the difference, after Holm's correction over all methods

    @property
    def verdict(self) -> str:
        """The conclusion in words."""
        if self.difference is None or self.adjusted is None:
            return ""
        if self.adjusted >= ALPHA:
            return NO_DIFFERENCE
        return "better" if self.difference > 0 else "worse"

    @property
    def shown(self) -> str:
        """The difference and its interval; empty for the baseline."""
        return _difference(self.difference, self.interval)


def methods(entries: Sequence[Entry], baseline: str, resamples: int | None = None) -> list[Method]:
    """Compare every method with one of them.

    A resample draws pairs within each task, the same for all methods, and seeds, the same for two methods that have the
    same ones. So the interval holds both the luck of the pairs and the luck of the seeds, as far as few seeds show it.

    Args:
        entries: Results on one set of tasks.
        baseline: Name of the method that the others are compared with.
        resamples: Number of resamples. None: 2,000, and with more than 20 methods 100 for each, since the smallest p
            that n resamples can show, 2 / (n + 1), is multiplied by the number of methods.
    """
    complete = [entry for entry in entries if entry.scored is not None and entry.average is not None]
    groups = by_recipe(sorted(complete, key=lambda e: (e.seed is None, e.seed or 0)))
    if baseline not in groups:
        known = ", ".join(sorted(groups)) or "nothing"
        raise UserError(
            f"--baseline {baseline} has no complete results; there are results of {known}\nfix: name one of these"
        )
    resamples = resamples or max(statistic.RESAMPLES, 100 * len(groups))
    drawn = _averages([e for runs in groups.values() for e in runs], resamples)
    found, p = {}, {}
    for name, runs in groups.items():
        if name == baseline:
            continue
        samples = _over_seeds(runs, drawn, resamples) - _over_seeds(groups[baseline], drawn, resamples)
        low, high = statistic.interval(samples)
        found[name] = (mean_of(runs) - mean_of(groups[baseline]), (low, high))
        p[name] = statistic.p_value(samples[~np.isnan(samples)])
    adjusted = statistic.holm(p)
    rows = [Method(baseline, groups.pop(baseline))]
    rows += [Method(name, runs, *found[name], adjusted[name]) for name, runs in groups.items()]
    return rows


def summarize(rows: Sequence[Method], note: str = "") -> dict[str, Any]:
    """A table of methods as JSON: what `cse eval report --json` writes and `eval/results` keeps.

    The baseline comes first, as among the rows, then the others from best to worst. `note` has the conditions that the
    results do not hold, in a sentence or two.

    Returns:
        `methods` has one entry per method: its number of seeds (0 for a checkpoint without one), mean and standard
        deviation of each task and of the average, and, in relation to the baseline, the difference of averages, its
        95 % interval, p by Holm, the verdict, and `speed`, the ratio of optimizer steps per second.
    """
    baseline, *others = rows
    results = baseline.runs[0].results
    tasks = list(results["tasks"])
    pace = speed(baseline.runs)
    found = []
    for row in [baseline, *sorted(others, key=lambda m: -mean_of(m.runs))]:
        own = speed(row.runs)
        scores = {t: [float(e.results["tasks"][t]["value"]) for e in row.runs] for t in tasks}
        found.append(
            {
                "name": row.name,
                "seeds": len({e.seed for e in row.runs} - {None}),
                "scores": {task: _mean_sd(values) for task, values in scores.items()},
                "average": _mean_sd([a for e in row.runs if (a := e.average) is not None]),
                "difference": None if row.difference is None else round(row.difference, 4),
                "interval": None if row.interval is None else list(row.interval),
                "p_holm": row.adjusted,
                "verdict": row.verdict,
                "speed": round(own / pace, 4) if own and pace else None,
            }
        )
    return {
        "schema": SCHEMA,
        "requested": baseline.runs[0].requested,
        "metric": results["average"]["metric"],
        "aggregation": "all",
        "baseline": baseline.name,
        "seeds": sorted({e.seed for e in baseline.runs if e.seed is not None}),
        "precision": results["precision"],
        "note": note,
        "tasks": tasks,
        "methods": found,
    }


def markdown(summary: Mapping[str, Any], only: Sequence[str] = (), tasks: Sequence[str] | None = None) -> str:
    """A summary as a Markdown table; a column that no row fills is left out.

    `only` names the methods to show, and `tasks` the tasks beside the average; without them, all are.
    """
    rows = [row for row in summary["methods"] if not only or row["name"] in only]
    shown = [t for t in (summary["tasks"] if tasks is None else tasks) if any(row["scores"].get(t) for row in rows)]
    columns: list[tuple[str, list[str]]] = [
        ("method", [row["name"] for row in rows]),
        ("seeds", [str(row["seeds"] or "-") for row in rows]),
        *((task, [_plus_minus(row["scores"].get(task)) for row in rows]) for task in shown),
        ("average", [_plus_minus(row["average"]) for row in rows]),
        (f"minus {summary['baseline']} (95 %)", [_difference(row["difference"], row["interval"]) for row in rows]),
        ("", [row["verdict"] for row in rows]),
        ("steps/s", ["" if row["speed"] is None else f"{row['speed']:.2f}" for row in rows]),
    ]
    heads, *lines = zip(*((head, *cells) for head, cells in columns if any(cells)), strict=True)
    return Table(heads, lines, ("method", "")).markdown()


def _mean_sd(values: Sequence[float]) -> dict[str, float | None]:
    sd = round(statistics.stdev(values), 4) if len(values) > 1 else None
    return {"mean": round(statistics.mean(values), 4), "sd": sd}


def _plus_minus(value: Mapping[str, float | None] | None) -> str:
    return "" if value is None or value["mean"] is None else plus_minus(value["mean"], value["sd"])


def _difference(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None or interval is None:
        return ""
    return f"{value:+.2f} ({interval[0]:+.2f} to {interval[1]:+.2f})"


def mean_of(runs: Sequence[Entry]) -> float:
    """The mean of the averages of runs."""
    return statistics.mean(a for e in runs if (a := e.average) is not None)


def _averages(entries: Sequence[Entry], resamples: int) -> Mapping[int, Vector]:
    """Resampled averages over tasks, by the entry's identity."""
    scored = [e.scored for e in entries if e.scored is not None]
    total = np.zeros((len(entries), resamples))
    tasks = list(scored[0].findings)
    for task in tasks:
        hashes = {s.findings[task].sha256 if task in s.findings else None for s in scored}
        if len(hashes) > 1:
            raise UserError(f"{task} was scored on different rows\nfix: score all checkpoints with the same --data")
        found = [s.findings[task] for s in scored]
        total += resampled(found, found[0].primary, resamples)
    return {id(entry): row / len(tasks) for entry, row in zip(entries, total, strict=True)}


def _over_seeds(runs: Sequence[Entry], drawn: Mapping[int, Vector], resamples: int) -> Vector:
    """The mean over as many runs as there are, drawn with replacement by their seeds: (resamples,)."""
    seeds = ",".join(str(e.seed) for e in runs)
    chosen = np.random.default_rng([statistic.SEED, zlib.crc32(seeds.encode())]).integers(
        0, len(runs), size=(len(runs), resamples)
    )
    samples = np.stack([drawn[id(e)] for e in runs])
    return np.asarray(np.take_along_axis(samples, chosen, axis=0).mean(0))
