"""Methods beside each other: mean and spread over seeds, and the difference of each to a baseline."""

from __future__ import annotations

import statistics
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cse.errors import UserError
from cse.evaluation import significance
from cse.evaluation.collect import Entry, speed, spread
from cse.evaluation.compare import ALPHA, NO_DIFFERENCE
from cse.evaluation.sts import Vector


@dataclass(frozen=True)
class Method:
    """Runs that differ by their seed, or one checkpoint that has none.

    Attributes:
        name: The recipe's, or the checkpoint's.
        runs: By seed.
        difference: Mean average minus the baseline's; None for the baseline.
        interval: 95 % of its resamples.
        adjusted: Its two-sided p, by Holm over all methods.
    """

    name: str
    runs: list[Entry]
    difference: float | None = None
    interval: tuple[float, float] | None = None
    adjusted: float | None = None

    @property
    def verdict(self) -> str:
        """In words."""
        if self.difference is None or self.adjusted is None:
            return ""
        if self.adjusted >= ALPHA:
            return NO_DIFFERENCE
        return "better" if self.difference > 0 else "worse"


def methods(entries: Sequence[Entry], baseline: str, resamples: int = significance.RESAMPLES) -> list[Method]:
    """Compare every method with one of them.

    A resample draws pairs within each task, the same for all methods, and seeds, the same for two methods that have the
    same ones. So the interval holds both the luck of the pairs and the luck of the seeds, as far as few seeds show it.

    Args:
        entries: Results on one set of tasks.
        baseline: Name of the method that others are compared with.
        resamples: How many.

    Raises:
        UserError: The baseline has no complete results, or other rows than another method.
    """
    groups: dict[str, list[Entry]] = {}
    for entry in sorted(entries, key=lambda e: (e.seed is None, e.seed or 0)):
        if entry.scored is not None and entry.average is not None:
            groups.setdefault(entry.recipe, []).append(entry)
    if baseline not in groups:
        known = ", ".join(sorted(groups)) or "nothing"
        raise UserError(f"--baseline {baseline}: no complete results of it; there are results of {known}")
    drawn = _averages([e for runs in groups.values() for e in runs], resamples)
    found, p = {}, {}
    for name, runs in groups.items():
        if name == baseline:
            continue
        samples = _over_seeds(runs, drawn, resamples) - _over_seeds(groups[baseline], drawn, resamples)
        low, high = significance.interval(samples)
        found[name] = (_mean(runs) - _mean(groups[baseline]), (low, high))
        p[name] = significance.p_value(samples[~np.isnan(samples)])
    adjusted = significance.holm(p)
    rows = [Method(baseline, groups.pop(baseline))]
    rows += [Method(name, runs, *found[name], adjusted[name]) for name, runs in groups.items()]
    return rows


def markdown(rows: Sequence[Method]) -> str:
    """The baseline first, then the others from best to worst."""
    baseline, *others = rows
    tasks = list(baseline.runs[0].results["tasks"])
    head = ["method", "seeds", *tasks, "average", f"minus {baseline.name}, 95 %", "", "steps/s"]
    lines = [head, [":--", "--:", *["--:"] * (len(tasks) + 2), ":--", "--:"]]
    pace = speed(baseline.runs)
    for row in [baseline, *sorted(others, key=lambda m: -_mean(m.runs))]:
        scores = [spread([e.results["tasks"][t]["all"]["spearman"] for e in row.runs]) for t in tasks]
        difference = ""
        if row.difference is not None and row.interval is not None:
            difference = f"{row.difference:+.2f} ({row.interval[0]:+.2f} to {row.interval[1]:+.2f})"
        own = speed(row.runs)
        relative = f"{own / pace:.2f}" if own and pace else ""
        average = spread([a for e in row.runs if (a := e.average) is not None])
        seeds = str(len({e.seed for e in row.runs} - {None}) or "-")
        lines.append([row.name.replace("|", "\\|"), seeds, *scores, average, difference, row.verdict, relative])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _mean(runs: Sequence[Entry]) -> float:
    return statistics.mean(a for e in runs if (a := e.average) is not None)


def _averages(entries: Sequence[Entry], resamples: int) -> Mapping[int, Vector]:
    """Resampled averages over tasks, by the entry's identity."""
    scored = [e.scored for e in entries if e.scored is not None]
    total = np.zeros((len(entries), resamples))
    tasks = list(scored[0].cosine)
    for task in tasks:
        hashes = {str(s.results["tasks"].get(task, {}).get("data", {}).get("sha256")) for s in scored}
        if len(hashes) > 1:
            raise UserError(f"{task} was scored on different rows; score all checkpoints with the same --data")
        total += significance.bootstrap([s.cosine[task] for s in scored], scored[0].gold[task], task, resamples)
    return {id(entry): row / len(tasks) for entry, row in zip(entries, total, strict=True)}


def _over_seeds(runs: Sequence[Entry], drawn: Mapping[int, Vector], resamples: int) -> Vector:
    """The mean over as many runs as there are, drawn with replacement by their seeds: (resamples,)."""
    seeds = ",".join(str(e.seed) for e in runs)
    chosen = np.random.default_rng([significance.SEED, zlib.crc32(seeds.encode())]).integers(
        0, len(runs), size=(len(runs), resamples)
    )
    samples = np.stack([drawn[id(e)] for e in runs])
    mean: Vector = np.take_along_axis(samples, chosen, axis=0).mean(0)
    return mean
