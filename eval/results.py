"""results.json: what was scored, on which rows, with which model, and how sure one may be. `SCHEMA` says its version.

    schema              1
    model               name, sha256, loader, max_length, prompt
    tasks.<TASK>        task, split, version, licence, metric, aggregation, n
                        all, mean, wmean {spearman, pearson}; mean and wmean are null where subsets are unknown
                        interval [low, high] of all.spearman; subsets.<SUBSET> {n, spearman, pearson}
                        data {kind, where, layout, text, sha256, blank, checked}; worst [{gold, cosine, ...}]
    average             requested, all {spearman, pearson, rounded} or null, interval, missing [names]
    missing.<TASK>      why it has no score
    bootstrap           level, resamples, seed
    precision, sentences {total, unique}, seconds {...}, versions {...}, created

All scores are times 100. `average.all.rounded` is the mean of scores rounded to two decimals, as papers print it. The
similarity of every pair lies beside it in `<name>.npz`: arrays `<TASK>/cosine` and `<TASK>/gold`.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cse.cache import atomic_file
from cse.errors import UserError
from eval.harness import Outcome
from eval.sources import POOLED, TaskData
from eval.sts import Correlation, TaskScore, Vector

SCHEMA = 1
PACKAGES = ("cse", "torch", "transformers", "sentence-transformers", "numpy", "scipy")


def build(outcome: Outcome, model: Mapping[str, Any], precision: str) -> dict[str, Any]:
    """The content of results.json."""
    return {
        "schema": SCHEMA,
        "model": dict(model),
        "tasks": {name: _task(outcome.data[name], score) for name, score in outcome.scores.items()},
        "average": _average(outcome),
        "missing": dict(outcome.missing),
        "precision": precision,
        "sentences": dict(outcome.sentences),
        "seconds": {name: round(value, 3) for name, value in outcome.seconds.items()},
        "versions": versions(),
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


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


def versions() -> dict[str, str]:
    """Of Python and the packages that scores depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _task(data: TaskData, score: TaskScore) -> dict[str, Any]:
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
        "interval": None,
        "subsets": {s: {"n": score.sizes[s], **_pair(c)} for s, c in score.subsets.items()} if known else {},
        "data": data.source.as_dict(),
    }


def _average(outcome: Outcome) -> dict[str, Any]:
    scores = [score.all for score in outcome.scores.values()]
    complete = outcome.average is not None
    mean = {
        "spearman": outcome.average,
        "pearson": sum(s.pearson for s in scores) / len(scores) if complete else None,
        "rounded": round(sum(round(s.spearman, 2) for s in scores) / len(scores), 2) if complete else None,
    }
    return {"requested": outcome.requested, "all": mean, "interval": None, "missing": list(outcome.missing)}


def _pair(scores: Correlation) -> dict[str, float]:
    return {"spearman": scores.spearman, "pearson": scores.pearson}
