"""From scores to the content of results.json, which `results` describes: intervals, geometry, the worst pairs."""

from __future__ import annotations

import datetime
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from cse.environment import versions
from cse.evaluation import geometry, significance, transfer, transfer_data
from cse.evaluation.harness import Outcome
from cse.evaluation.results import SCHEMA
from cse.evaluation.sources import POOLED, Missing, TaskData
from cse.evaluation.sts import Embed, TaskScore, Vector

PACKAGES = ("torch", "transformers", "sentence-transformers", "numpy", "scipy")


def build(
    outcome: Outcome, model: Mapping[str, Any], precision: str, resamples: int = significance.RESAMPLES
) -> dict[str, Any]:
    """The content of results.json.

    Args:
        outcome: The scores.
        model: The entry on the model.
        precision: The precision in which it ran.
        resamples: Number of resamples for the intervals; 0 leaves them out.
    """
    start = time.perf_counter()
    samples = {
        name: significance.bootstrap("spearman", [(score.cosine, score.gold)], name, resamples)[0]
        for name, score in outcome.scores.items()
        if resamples
    }
    tasks = {n: _task(outcome.data[n], score, samples.get(n)) for n, score in outcome.scores.items()}
    average, space = _average(outcome, samples), None
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
        "sentences": {"total": 2 * sum(t["n"] for t in tasks.values()), "unique": len(outcome.row)},
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
            rows = transfer_data.load(name, data, check=check)
        except Missing as reason:
            missing[name] = str(reason)
            continue
        start = time.perf_counter()
        scores = transfer.score(rows, embed, folds).as_dict()
        found[name] = {**scores, "folds": folds, "where": rows.where, "seconds": round(time.perf_counter() - start, 2)}
    complete = bool(found) and not missing
    average = sum(task["accuracy"] for task in found.values()) / len(found) if complete else None
    return {"transfer": found, "transfer_average": {"accuracy": average, "missing": missing}}


def similarities(outcome: Outcome) -> dict[str, Vector]:
    """Every pair's similarity and gold score, by array name."""
    arrays = {}
    for name, score in outcome.scores.items():
        arrays[f"{name}/cosine"], arrays[f"{name}/gold"] = score.cosine, score.gold
    return arrays


def _task(data: TaskData, score: TaskScore, samples: Vector | None) -> dict[str, Any]:
    known = list(score.subsets) != [POOLED]
    return {
        "task": data.task.name,
        "split": data.task.split,
        "version": data.task.version,
        "license": data.task.license,
        "metric": "spearman",
        "aggregation": "all",
        "n": len(score.gold),
        "all": asdict(score.all),
        "mean": asdict(score.mean) if known else None,
        "wmean": asdict(score.wmean) if known else None,
        "interval": None if samples is None else significance.interval(samples),
        "subsets": {s: {"n": score.sizes[s], **asdict(c)} for s, c in score.subsets.items()} if known else {},
        "data": asdict(data.source),
        "worst": geometry.worst(data.subsets, score),
    }


def _average(outcome: Outcome, samples: Mapping[str, Vector]) -> dict[str, Any]:
    scores = [score.all for score in outcome.scores.values()]
    complete = outcome.average is not None
    mean = {
        "spearman": outcome.average,
        "pearson": sum(s.pearson for s in scores) / len(scores) if complete else None,
        "rounded": round(sum(round(s.spearman, 2) for s in scores) / len(scores), 2) if complete else None,
    }
    return {
        "requested": outcome.requested,
        "all": mean,
        "interval": significance.interval(np.mean(list(samples.values()), axis=0)) if complete and samples else None,
        "missing": list(outcome.missing),
    }
