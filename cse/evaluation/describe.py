"""From scores to the content of results.json, which `results` describes: intervals, geometry, the worst pairs."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from cse.environment import versions
from cse.evaluation import discourse, geometry, significance, transfer, transfer_data
from cse.evaluation.finding import Finding
from cse.evaluation.harness import Outcome
from cse.evaluation.results import SCHEMA
from cse.evaluation.sources import POOLED, Missing, TaskData
from cse.evaluation.statistic import Vector
from cse.evaluation.sts import Embed, TaskScore

PACKAGES = ("torch", "transformers", "sentence-transformers", "numpy", "scipy")


def build(
    outcome: Outcome,
    model: Mapping[str, Any],
    precision: str,
    resamples: int = significance.RESAMPLES,
    findings: Sequence[Finding] = (),
) -> dict[str, Any]:
    """The content of results.json.

    Args:
        outcome: The scores on STS tasks.
        model: The entry on the model.
        precision: The precision in which it ran.
        resamples: Number of resamples for the intervals; 0 leaves them out.
        findings: What evaluators found, under names that are all different.
    """
    start = time.perf_counter()
    every = [*outcome.findings, *findings]
    samples = {f.name: _samples(f, resamples) for f in every}
    tasks = {f.name: _entry(f, samples[f.name]) for f in every}
    for name, score in outcome.scores.items():
        tasks[name] |= _sts(outcome.data[name], score)
    average, space = _average(outcome, every, samples), None
    if outcome.vectors is not None:
        subsets = {name: data.subsets for name, data in outcome.data.items()}
        space = geometry.measure(outcome.vectors, outcome.row, subsets, outcome.scores)
    seconds = {**outcome.seconds, "describe": time.perf_counter() - start}
    return {
        "schema": SCHEMA,
        "model": dict(model),
        "tasks": tasks,
        "average": average,
        "missing": dict(outcome.missing),
        "geometry": space,
        "bootstrap": {"level": significance.LEVEL, "resamples": resamples, "seed": significance.SEED},
        "precision": precision,
        "sentences": {"total": 2 * sum(len(s.gold) for s in outcome.scores.values()), "unique": len(outcome.row)},
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "versions": versions(PACKAGES),
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def build_transfer(
    names: Sequence[str], data: str | None, embed: Embed, *, folds: int, check: bool = True
) -> dict[str, Any]:
    """The keys of results.json about transfer tasks."""
    found: dict[str, Any] = {}
    missing = {}
    for name in names:
        try:
            own = name in discourse.specs()
            rows = discourse.load(name, data) if own else transfer_data.load(name, data, check=check)
        except Missing as reason:
            missing[name] = str(reason)
            continue
        start = time.perf_counter()
        scores = transfer.score(rows, embed, folds).as_dict()
        found[name] = {**scores, "folds": folds, "where": rows.where, "seconds": round(time.perf_counter() - start, 2)}
    complete = bool(found) and not missing
    average = sum(task["accuracy"] for task in found.values()) / len(found) if complete else None
    return {"transfer": found, "transfer_average": {"accuracy": average, "missing": missing}}


def arrays(findings: Iterable[Finding]) -> dict[str, Vector]:
    """What the scores are computed from, as `<TASK>/<ARRAY>`."""
    return {
        f"{f.name}/{name}": f.arrays[name]
        for f in findings
        for name in dict.fromkeys(name for measure in f.measures.values() for name in measure.of)
    }


def _samples(finding: Finding, resamples: int) -> dict[str, Vector]:
    """The resampled scores of each measure that has arrays."""
    if not resamples or not finding.arrays:
        return {}
    return {name: significance.resampled([finding], name, resamples)[0] for name in finding.measures}


def _entry(finding: Finding, samples: Mapping[str, Vector]) -> dict[str, Any]:
    measures = {
        name: {
            "value": measure.value,
            "interval": significance.interval(samples[name]) if name in samples else None,
            "statistic": measure.statistic,
            "of": list(measure.of),
        }
        for name, measure in finding.measures.items()
    }
    return {
        "kind": finding.kind,
        "metric": finding.primary,
        "value": finding.value,
        "interval": measures[finding.primary]["interval"],
        "n": finding.n,
        "unit": finding.unit,
        "measures": measures,
        "data": {"where": finding.where, "sha256": finding.sha256},
        "about": dict(finding.about),
    }


def _sts(data: TaskData, score: TaskScore) -> dict[str, Any]:
    """What results.json has of an STS task besides the entry of any task."""
    known = list(score.subsets) != [POOLED]
    return {
        "task": data.task.name,
        "split": data.task.split,
        "version": data.task.version,
        "license": data.task.license,
        "aggregation": "all",
        "all": asdict(score.all),
        "mean": asdict(score.mean) if known else None,
        "wmean": asdict(score.wmean) if known else None,
        "subsets": {s: {"n": score.sizes[s], **asdict(c)} for s, c in score.subsets.items()} if known else {},
        "data": asdict(data.source),
        "worst": geometry.worst(data.subsets, score),
    }


def _average(
    outcome: Outcome, findings: Sequence[Finding], samples: Mapping[str, Mapping[str, Vector]]
) -> dict[str, Any]:
    metrics = {f.primary for f in findings}
    complete = len(metrics) == 1 and not outcome.missing
    drawn = [samples[f.name][f.primary] for f in findings if f.primary in samples[f.name]]
    found = {
        "requested": outcome.requested,
        "metric": next(iter(metrics)) if len(metrics) == 1 else None,
        "value": sum(f.value for f in findings) / len(findings) if complete else None,
        "interval": significance.interval(np.mean(drawn, axis=0)) if complete and len(drawn) == len(findings) else None,
        "missing": list(outcome.missing),
    }
    if len(findings) > len(outcome.scores):
        return found
    every = [score.all for score in outcome.scores.values()]
    mean = {
        "spearman": found["value"],
        "pearson": sum(s.pearson for s in every) / len(every) if complete else None,
        "rounded": round(sum(round(s.spearman, 2) for s in every) / len(every), 2) if complete else None,
    }
    return found | {"all": mean}
