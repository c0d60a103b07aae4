"""results.json: what was scored, on which rows, with which model, and how sure one may be. `SCHEMA` says its version.

    schema              1
    model               name, sha256, loader, max_length, prompt_name, prompt
    tasks.<TASK>        task, split, version, license, metric, aggregation, n
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

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cse.errors import UserError
from cse.evaluation.sts import Vector
from cse.files import atomic_file, read_json, write_text

SCHEMA = 1


@dataclass(frozen=True, repr=False)
class Scored:
    """What `cse.evaluate` returns: a results file with its pairs' similarities.

    Attributes:
        name: The checkpoint's name.
        results: The content of results.json, as this module describes it.
        cosine: The cosine of every pair, by task.
        gold: The rating of every pair, by task.
    """

    name: str
    results: Mapping[str, Any]
    cosine: Mapping[str, Vector]
    gold: Mapping[str, Vector]

    def __repr__(self) -> str:
        """Such as `Scored('runs/mine/best', STSB-dev 80.71)`, since the arrays would fill a screen."""
        return f"Scored({self.name!r}, {', '.join(f'{task} {score:.2f}' for task, score in self.scores.items())})"

    @property
    def scores(self) -> dict[str, float]:
        """The score of each task times 100: Spearman with aggregation `all`, and accuracy for transfer tasks."""
        found = {task: float(about["all"]["spearman"]) for task, about in self.results["tasks"].items()}
        return found | {task: float(about["accuracy"]) for task, about in self.results.get("transfer", {}).items()}

    @classmethod
    def read(cls, path: Path) -> Scored:
        """Read results.json and the arrays beside it.

        Raises:
            UserError: A file is missing or damaged.
        """
        found = read(path)
        try:
            with np.load(path.with_suffix(".npz")) as arrays:
                stored = {name: arrays[name].astype(np.float64) for name in arrays.files}
            cosine = {task: stored[f"{task}/cosine"] for task in found["tasks"]}
            gold = {task: stored[f"{task}/gold"] for task in found["tasks"]}
        except (OSError, KeyError, ValueError) as error:
            raise UserError(
                f"{path.with_suffix('.npz')} cannot be read: {error}\nfix: score the checkpoint again"
            ) from None
        return cls(str(found["model"]["name"]), found, cosine, gold)


def read(path: Path) -> dict[str, Any]:
    """Read results.json.

    Raises:
        UserError: The file is missing, or has another schema.
    """
    try:
        found: dict[str, Any] = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as results: {error}\nfix: score the checkpoint again") from None
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise UserError(f"{path} is not a results file of schema {SCHEMA}\nfix: score the checkpoint again")
    return found


def write(
    results: Mapping[str, Any],
    out: Path,
    similarities: Mapping[str, Vector] | None = None,
    *,
    option: str = "--out",
) -> None:
    """Write results.json, and the similarities of the pairs beside it; neither file is ever left incomplete.

    Args:
        results: The content.
        out: The path of the file.
        similarities: The arrays, by name.
        option: The option that gave the path.

    Raises:
        UserError: The file cannot be written.
    """
    try:
        if similarities is not None:
            with atomic_file(out.with_suffix(".npz")) as scratch, scratch.open("wb") as file:
                np.savez_compressed(file, **similarities)  # type: ignore[arg-type]
        write_text(out, json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    except OSError as error:
        raise UserError(f"{option} {out} cannot be written: {error.strerror}\nfix: give another path") from None


def default_out(checkpoint: str, requested: str, prompt: str | None = None) -> Path | None:
    """The default output path of a checkpoint's results: a file in its run, or None if it does not belong to a run."""
    folder = Path(checkpoint)
    if not folder.is_dir() or not (folder.parent / "metrics.jsonl").is_file():
        return None
    return folder.parent / name_for(folder.name, requested, prompt)


def name_for(checkpoint: str, requested: str, prompt: str | None = None) -> str:
    """The file name of a checkpoint's results in its run: results.json for the best one on all of STS."""
    parts = [] if checkpoint == "best" else [checkpoint]
    parts += [] if requested == "sts" else [re.sub(r"[^\w]+", "-", requested)[:60]]
    parts += [] if prompt is None else [re.sub(r"[^\w]+", "-", f"prompt-{prompt}")[:60]]
    return f"{'-'.join(['results', *parts])}.json"
