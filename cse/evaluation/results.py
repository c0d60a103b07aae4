"""results.json: what was scored, on which rows, with which model, and how sure one may be. `SCHEMA` says its version.

    schema              2
    model               name, sha256, loader, max_length, prompt_name, prompt, similarity where it is not the cosine
    tasks.<TASK>        kind, metric, value, interval, n, unit: the headline
                        measures.<MEASURE> {value, interval, statistic, of [array, ...]}
                        data {where, sha256, ...}, about {...}
      of kind sts, too  task, split, version, license, aggregation
                        all, mean, wmean {spearman, pearson}; mean and wmean are null where subsets are unknown
                        subsets.<SUBSET> {n, spearman, pearson}; data {kind, layout, text, blank, checked}
                        worst [{sentence1, sentence2, gold, cosine, gap}]
    average             requested, metric, value, interval, missing [names]; value is null if a task is missing, and,
                        like metric, if the tasks have different metrics; of STS also all {spearman, pearson, rounded}
    missing.<TASK>      why it has no score
    geometry            alignment, uniformity, mean_cosine, effective_rank, dim, spectrum [shares of variance],
                        overlap [{jaccard [from, to], n, spearman}] by quartile of shared words,
                        traps {partial, trap {n, cosine}, reverse {n, cosine}}, see `cse.evaluation.geometry.traps`
    transfer.<TASK>     accuracy, dev, n, nearest_mean, f1, interval, folds, where, seconds
    transfer_average    accuracy, missing
    dimensions          by width of the vectors, widest first, if widths were asked for: [{width,
                        tasks {TASK: value}, average or null, transfer {TASK: accuracy}}]; where no score is defined
                        tasks is empty, and `undefined` is the reason
    quantized           by kind of quantized vectors, float32 first, if kinds were asked for: [{kind, bytes,
                        and the same}]
    bootstrap           level, resamples, seed
    precision, sentences {total, unique}, seconds {...}, versions {...}, created

All scores are times 100. `average.all.rounded` is the mean of scores rounded to two decimals, as papers print it. What
each score is computed from lies beside it in `<name>.npz`: an array `<TASK>/<ARRAY>` for each name in `of`, such as
`STSB/cosine` and `STSB/gold`. A model whose `similarity` is `euclidean` is scored by negative distances, which then
take the place of cosines, except in `geometry`.
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
from cse.evaluation.evaluator import EvalResult, Measure
from cse.evaluation.statistic import Vector
from cse.files import atomic_file, misfit, read_json, write_text

SCHEMA = 2
_NUMBER, _INTERVAL = (float, None), ([float, float], None)
_TWO = {"spearman": _NUMBER, "pearson?": _NUMBER}
_MEASURE = {"value": float, "interval?": _INTERVAL, "statistic": str, "of": [str]}
_PAIR = {"sentence1": str, "sentence2": str, "gold": float, "cosine": float, "gap": float}
_TASK = {
    "kind": str,
    "metric": str,
    "value": float,
    "interval?": _INTERVAL,
    "n": int,
    "unit": str,
    "measures": {"*": _MEASURE},
    "data?": {"sha256?": (str, None), "where?": (str, None)},
    "about?": {},
    "split?": (str, None),
    "all?": _TWO,
    "mean?": (_TWO, None),
    "wmean?": (_TWO, None),
    "subsets?": {"*": {"n": int, **_TWO}},
    "worst?": [_PAIR],
}
_REDUCED = {"tasks": {"*": _NUMBER}, "average": _NUMBER, "transfer?": {"*": float}, "undefined?": str}
_TRAP = {"n": int, "cosine": _NUMBER}
_GEOMETRY = {
    "alignment": _NUMBER,
    "uniformity": _NUMBER,
    "mean_cosine": _NUMBER,
    "effective_rank?": _NUMBER,
    "dim?": (int, None),
    "spectrum?": [float],
    "overlap?": ([{"jaccard": _INTERVAL, "n": int, "spearman": _NUMBER}], None),
    "traps?": ({"partial": _NUMBER, "trap": _TRAP, "reverse": _TRAP}, {"*": ()}, None),
}
SHAPE = {
    "model": {"name": str, "sha256?": (str, None)},
    "tasks": {"*": _TASK},
    "average?": {
        "requested": str,
        "value": _NUMBER,
        "interval?": _INTERVAL,
        "metric": (str, None),
        "all?": (_TWO, None),
    },
    "missing": {"*": str},
    "geometry?": (_GEOMETRY, None),
    "transfer?": ({"*": {"accuracy": float, "n": int, "interval?": _INTERVAL}}, None),
    "dimensions?": ([{"width": int, **_REDUCED}], None),
    "quantized?": ([{"kind": str, "bytes": int, **_REDUCED}], None),
    "precision?": str,
    "versions?": {"*": str},
}


@dataclass(frozen=True, repr=False)
class Scored:
    """Hold what `cse.evaluate` returns: a results file with the arrays that its scores are computed from."""

    name: str  # the checkpoint's name
    results: Mapping[str, Any]  # the content of results.json, as this module describes it
    # the scores with their arrays, by task; those of evaluators without arrays are in `results` only
    findings: Mapping[str, EvalResult]

    def __repr__(self) -> str:
        """Such as `Scored('runs/mine/best', STSB-dev 80.71)`, since the arrays would fill a screen."""
        return f"Scored({self.name!r}, {', '.join(f'{task} {score:.2f}' for task, score in self.scores.items())})"

    @property
    def scores(self) -> dict[str, float]:
        """The headline of each task times 100: for STS, Spearman over all pairs; for transfer tasks, accuracy."""
        found = {task: float(about["value"]) for task, about in self.results["tasks"].items()}
        return found | {task: float(about["accuracy"]) for task, about in self.results.get("transfer", {}).items()}

    @property
    def by_width(self) -> dict[int, dict[str, float]]:
        """`scores` of the first dimensions of the vectors, by their number, if widths were asked for."""
        return {int(e["width"]): scores_of(e) for e in self.results.get("dimensions", [])}

    @property
    def by_kind(self) -> dict[str, dict[str, float]]:
        """`scores` of quantized vectors by kind, and of whole ones as `float32`, if kinds were asked for."""
        return {str(e["kind"]): scores_of(e) for e in self.results.get("quantized", [])}

    @property
    def cosine(self) -> dict[str, Vector]:
        """The cosine of every pair of the tasks that compare pairs with gold scores."""
        return {task: f.arrays["cosine"] for task, f in self.findings.items() if "gold" in f.arrays}

    @property
    def gold(self) -> dict[str, Vector]:
        """The gold score of every pair, by task."""
        return {task: f.arrays["gold"] for task, f in self.findings.items() if "gold" in f.arrays}

    @classmethod
    def read(cls, path: Path) -> Scored:
        """Read results.json and the arrays beside it.

        Raises:
            UserError: A file is missing or damaged.
        """
        found = read(path)
        try:
            with np.load(path.with_suffix(".npz")) as stored:
                arrays = {name: stored[name].astype(np.float64) for name in stored.files}
            findings = {name: _finding(name, about, arrays) for name, about in found["tasks"].items() if about["n"]}
        except (OSError, KeyError, ValueError) as error:
            raise UserError(
                f"{path.with_suffix('.npz')} cannot be read: {error}\nfix: score the checkpoint again"
            ) from None
        return cls(str(found["model"]["name"]), found, findings)


def _finding(name: str, about: Mapping[str, Any], arrays: Mapping[str, Vector]) -> EvalResult:
    """The result that an entry of `tasks` was made from; KeyError if an array is missing."""
    measures = {key: Measure(m["value"], m["statistic"], tuple(m["of"])) for key, m in about["measures"].items()}
    own = {of: arrays[f"{name}/{of}"] for measure in measures.values() for of in measure.of}
    sha256, where = (str(about["data"][key]) for key in ("sha256", "where"))
    more = about.get("about", {})
    return EvalResult(name, about["kind"], about["metric"], measures, own, about["unit"], sha256, where, more)


def read(path: Path) -> dict[str, Any]:
    """Read results.json."""
    try:
        found: dict[str, Any] = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as results: {error}\nfix: score the checkpoint again") from None
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise UserError(f"{path} is not a results file of schema {SCHEMA}\nfix: score the checkpoint again")
    if wrong := misfit(found, SHAPE):
        raise UserError(f"{path} is damaged: {wrong}\nfix: score the checkpoint again")
    return found


def write(
    results: Mapping[str, Any],
    out: Path,
    arrays: Mapping[str, Vector] | None = None,
    *,
    option: str = "--out",
) -> None:
    """Write results.json, and the arrays of its scores beside it; neither file is ever left incomplete."""
    try:
        if arrays is not None:
            with atomic_file(out.with_suffix(".npz")) as scratch, scratch.open("wb") as file:
                np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        write_text(out, json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    except OSError as error:
        raise UserError(f"{option} {out} cannot be written: {error.strerror}\nfix: give another path") from None


def scores_of(entry: Mapping[str, Any]) -> dict[str, float]:
    """The scores of reduced vectors by task, from their entry."""
    return {**entry["tasks"], **(entry.get("transfer") or {})}


def has_scores(found: Mapping[str, Any]) -> bool:
    """Tell whether any task has a score."""
    return bool(found.get("tasks") or found.get("transfer"))


def require_kept(out: Path | None, missing: Mapping[str, str]) -> None:
    """Refuse to replace the scores of a results file, which may not exist, by none."""
    try:
        old = read(out) if out and missing and out.is_file() else {}
    except UserError:  # a damaged file may be replaced
        return
    lost = [name for name in missing if name in old.get("tasks", {}) or name in old.get("transfer", {})]
    if lost:
        raise UserError(
            f"--out {out} holds scores of {', '.join(lost)}, whose rows are missing now: {missing[lost[0]][:200]}\n"
            "fix: give the folder of their rows (--data), or another --out"
        )


def default_out(checkpoint: str, requested: str, prompt: str | None = None) -> Path | None:
    """The default output path of a checkpoint's results: a file in its run, or None if it does not belong to a run."""
    folder = Path(checkpoint)
    return folder.parent / name_for(folder.name, requested, prompt) if is_of_run(folder) else None


def is_of_run(folder: Path) -> bool:
    """Tell whether a folder is a checkpoint of a run, which has a log."""
    return folder.is_dir() and (folder.parent / "metrics.jsonl").is_file()


def name_for(checkpoint: str, requested: str, prompt: str | None = None) -> str:
    """The file name of a checkpoint's results in its run: results.json for the best one on all of STS."""
    parts = [] if checkpoint == "best" else [checkpoint]
    parts += [] if requested == "sts" else [re.sub(r"[^\w]+", "-", requested)[:60]]
    parts += [] if prompt is None else [re.sub(r"[^\w]+", "-", f"prompt-{prompt}")[:60]]
    return f"{'-'.join(['results', *parts])}.json"
