"""results.json: what was scored, on which rows, with which model, and how sure one may be. `SCHEMA` says its version.

    schema              1
    model               name, sha256, loader, max_length, prompt
    tasks.<TASK>        task, split, version, licence, metric, aggregation, n
                        all, mean, wmean {spearman, pearson}; mean and wmean are null where subsets are unknown
                        interval [low, high] of all.spearman; subsets.<SUBSET> {n, spearman, pearson}
                        data {kind, where, layout, text, sha256, blank, checked}
                        worst [{sentence1, sentence2, gold, cosine, gap}]
    average             requested, all {spearman, pearson, rounded} or null, interval, missing [names]
    missing.<TASK>      why it has no score
    geometry            alignment, uniformity, mean_cosine, effective_rank, dim, spectrum [shares of variance],
                        overlap [{jaccard [from, to], n, spearman}] by quartile of shared words
    transfer.<TASK>     accuracy, dev, n, f1, interval, folds, where, seconds; transfer_average {accuracy, missing}
    bootstrap           level, resamples, seed
    precision, sentences {total, unique}, seconds {...}, versions {...}, created

All scores are times 100. `average.all.rounded` is the mean of scores rounded to two decimals, as papers print it. The
similarity of every pair lies beside it in `<name>.npz`: arrays `<TASK>/cosine` and `<TASK>/gold`.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cse.environment import versions
from cse.errors import UserError
from cse.evaluation import geometry, significance, transfer, transfer_data
from cse.evaluation.harness import Outcome
from cse.evaluation.sources import POOLED, Missing, TaskData
from cse.evaluation.sts import Correlation, Embed, TaskScore, Vector
from cse.files import atomic_file

SCHEMA = 1
PACKAGES = ("torch", "transformers", "sentence-transformers", "numpy", "scipy")


def build(
    outcome: Outcome, model: Mapping[str, Any], precision: str, resamples: int = significance.RESAMPLES
) -> dict[str, Any]:
    """The content of results.json.

    Args:
        outcome: What was scored.
        model: What is known of the model.
        precision: In which it was run.
        resamples: For the intervals; 0 leaves them out.
    """
    start = time.perf_counter()
    samples = _samples(outcome, resamples)
    tasks = {n: _task(outcome.data[n], score, samples.get(n)) for n, score in outcome.scores.items()}
    average, space = _average(outcome, samples), _geometry(outcome)
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
        scores = transfer.evaluate(rows, embed, folds).as_dict()
        found[name] = {**scores, "folds": folds, "where": rows.where, "seconds": round(time.perf_counter() - start, 2)}
    complete = bool(found) and not missing
    average = sum(task["accuracy"] for task in found.values()) / len(found) if complete else None
    return {"transfer": found, "transfer_average": {"accuracy": average, "missing": missing}}


def write(results: Mapping[str, Any], out: Path, similarities: Mapping[str, Vector] | None = None) -> None:
    """Write results.json, and the pairs' similarities beside it, each whole or not at all.

    Raises:
        UserError: The place cannot be written to.
    """
    try:
        if similarities is not None:
            with atomic_file(out.with_suffix(".npz")) as scratch, scratch.open("wb") as file:
                np.savez_compressed(file, **similarities)  # type: ignore[arg-type]
        with atomic_file(out) as scratch:
            scratch.write_text(
                json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
            )
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error.strerror}.\nGive a place that can be.") from None


def default_out(checkpoint: str, requested: str) -> Path | None:
    """Where results go that were not told where: into the run that the checkpoint is of; None where it is of none."""
    folder = Path(checkpoint)
    if not folder.is_dir() or not (folder.parent / "metrics.jsonl").is_file():
        return None
    return folder.parent / name_for(folder.name, requested)


def name_for(checkpoint: str, requested: str) -> str:
    """What the results of a run's checkpoint are called: results.json for all of STS on the best one."""
    parts = [] if checkpoint == "best" else [checkpoint]
    parts += [] if requested == "sts" else [re.sub(r"[^\w]+", "-", requested)[:60]]
    return f"{'-'.join(['results', *parts])}.json"


def check_writable(out: Path) -> None:
    """Refuse, before any work, a place where results could not be written.

    Raises:
        UserError: It cannot be written to.
    """
    parent = out.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if out.is_dir() or not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"--out {out} cannot be written.\nGive the path of a file in a folder that can be.")


def similarities(outcome: Outcome) -> dict[str, Vector]:
    """Every pair's similarity and gold score, by array name."""
    arrays = {}
    for name, score in outcome.scores.items():
        arrays[f"{name}/cosine"], arrays[f"{name}/gold"] = score.cosine, score.gold
    return arrays


def read(path: Path) -> dict[str, Any]:
    """Read results.json.

    Raises:
        UserError: It is missing or of another schema.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as results: {error}") from None
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise UserError(f"{path} is not a results file of schema {SCHEMA}.\nScore the checkpoint again.")
    return found


def _samples(outcome: Outcome, resamples: int) -> dict[str, Vector]:
    if not resamples:
        return {}
    return {n: significance.bootstrap([s.cosine], s.gold, n, resamples)[0] for n, s in outcome.scores.items()}


def _geometry(outcome: Outcome) -> dict[str, Any] | None:
    if outcome.vectors is None:
        return None
    return geometry.measure(
        outcome.vectors, outcome.row, {n: d.subsets for n, d in outcome.data.items()}, outcome.scores
    )


def _task(data: TaskData, score: TaskScore, samples: Vector | None) -> dict[str, Any]:
    known = list(score.subsets) != [POOLED]
    return {
        "task": data.task.name,
        "split": data.task.split,
        "version": data.task.version,
        "licence": data.task.licence,
        "metric": "spearman",
        "aggregation": "all",
        "n": len(score.gold),
        "all": _pair(score.all),
        "mean": _pair(score.mean) if known else None,
        "wmean": _pair(score.wmean) if known else None,
        "interval": None if samples is None else significance.interval(samples),
        "subsets": {s: {"n": score.sizes[s], **_pair(c)} for s, c in score.subsets.items()} if known else {},
        "data": data.source.as_dict(),
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


def _pair(scores: Correlation) -> dict[str, float]:
    return {"spearman": scores.spearman, "pearson": scores.pearson}
