"""Collect what lies under a folder of runs: results, learning curves, recipes and seeds."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cse.data import checks
from cse.errors import UserError
from cse.evaluation import results
from cse.evaluation.results import Scored
from cse.files import json_lines, misfit, read_shaped

SEED = re.compile(r"-s(\d+)$")  # the end of a run's folder: runs/<recipe>/<stamp>-s<seed>


@dataclass(frozen=True)
class Entry:
    """One results file."""

    label: str  # short name, unique in the report
    recipe: str  # name of the recipe; of the model, if the results belong to no run under the folder
    seed: int | None  # seed of the run, if its folder says it
    results: dict[str, Any]  # the content of the file
    scored: Scored | None  # the results with the arrays of their scores, if these exist
    run: Path | None  # the run's folder

    @property
    def requested(self) -> str:
        """The tasks, named as they were when they were scored."""
        return str(self.results["average"]["requested"])

    @property
    def average(self) -> float | None:
        """The headline."""
        value = self.results["average"]["value"]
        return None if value is None else float(value)


@dataclass(frozen=True)
class Curve:
    """The log of a run."""

    label: str
    records: list[dict[str, float]]


@dataclass(frozen=True)
class Found:
    """Everything under a folder."""

    entries: list[Entry] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    texts: list[dict[str, Any]] = field(default_factory=list)  # reports of cse.data.checks, each on other rows
    skipped: list[str] = field(default_factory=list)


def collect(folder: Path) -> Found:
    """Read a folder of runs."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise UserError(
            f"the folder of runs {str(folder)!r} {what}\nfix: give a folder of runs, or train first: cse train RECIPE"
        )
    found = Found()
    for path in sorted(folder.rglob("results*.json")):
        try:
            content = results.read(path)
        except UserError as error:
            found.skipped.append(str(error).splitlines()[0])
            continue
        if content.get("tasks"):
            found.entries.append(_entry(path, folder, content))
    for path in sorted(folder.rglob("metrics.jsonl")):
        lines = records(path)
        if lines:
            found.curves.append(Curve(_label(path.parent, folder), lines))
        try:
            report = read_shaped(path.with_name(checks.FILE), checks.SHAPE)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            found.skipped.append(f"{path.with_name(checks.FILE)} is damaged: {error}")
            continue
        if report["sha256"] not in [known["sha256"] for known in found.texts]:
            found.texts.append(report)
    return found


def speed(entries: Sequence[Entry]) -> float | None:
    """Optimizer steps per second, the median over runs of each one's fastest stretch; None if no log has it."""
    runs = [records(path) for e in entries if e.run and (path := e.run / "metrics.jsonl").is_file()]
    fastest = [
        max(r["steps_per_s"] for r in run if "steps_per_s" in r) for run in runs if run and "steps_per_s" in run[-1]
    ]
    return statistics.median(fastest) if fastest else None


def plus_minus(mean: float, sd: float | None) -> str:
    """A mean and the standard deviation over seeds; None for one seed."""
    return f"{mean:.2f}" if sd is None else f"{mean:.2f} ± {sd:.2f}"


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds."""
    return plus_minus(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None)


def by_recipe(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    """The entries of each recipe."""
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        found.setdefault(entry.recipe, []).append(entry)
    return found


def _entry(path: Path, folder: Path, content: dict[str, Any]) -> Entry:
    run = next((p for p in path.parents if (p / "metrics.jsonl").is_file() or (p / "env.json").is_file()), None)
    inside = run is not None and run.is_relative_to(folder)
    try:
        scored = Scored.read(path)
    except UserError:
        scored = None
    name = str((content.get("model") or {}).get("name", path.parent.name))
    seed = SEED.search(run.name) if run and inside else None
    where = _label(run, folder) if run and inside else name
    checkpoint = Path(name).name if inside else ""
    label = f"{where}/{checkpoint}" if checkpoint and checkpoint not in ("best", where) else where
    recipe = run.parent.name if run and inside else name
    return Entry(label, recipe, int(seed.group(1)) if seed else None, content, scored, run if inside else None)


def _label(run: Path, folder: Path) -> str:
    return run.relative_to(folder).as_posix() if run != folder else run.name


def records(path: Path) -> list[dict[str, float]]:
    """The log's lines; the last may be half written."""
    found = [{k: float(v) for k, v in record.items() if not misfit(v, float)} for record in json_lines(path)]
    return [record for record in found if "step" in record]
