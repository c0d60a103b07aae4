"""`python -m eval reproduce RECIPE`: train and score a recipe with several seeds, against the band that it declares.

A recipe says what it expects as

    expect: {tasks: sts-mini-dev, low: 57.5, high: 59.5}

the band in which the mean over seeds must lie, if the recipe is trained as it is and scored on these tasks. Otherwise
the scores are printed without a verdict, and why. Each seed's run has a folder, runs/<recipe>/reproduce-s<seed>: runs
that are trained or scored already are kept, and interrupted ones resume.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cse.console import say
from cse.encoder.checkpoint.identity import model_hash
from cse.errors import UserError
from cse.evaluation import results
from cse.files import read_json, write_json
from cse.recipe import Recipe, load
from cse.training.checkpoint import load_progress

FIRST_SEED = 42
PASS, OUTSIDE, NO_BAND = "PASS", "OUTSIDE", "no band"

Score = Callable[[Path, Path], None]  # a checkpoint, and where its results go


def run(name: str, seeds: int, overrides: Sequence[str], tasks: str | None, runs: Path, score: Score) -> dict[str, Any]:
    """Train and score the seeds that are not done yet, and summarize.

    Seeds begin with 42. Without tasks, they are those of the band. `score` scores a checkpoint into a results file.
    """
    if seeds < 1:
        raise UserError(f"--seeds is {seeds}\nfix: give a number >= 1")
    expect, why = band_of(load(name, overrides), overrides, tasks)
    say("band", why or f"{expect['low']} to {expect['high']} on {expect['tasks']}")
    found: dict[int, float] = {}
    folders = []
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        recipe = load(name, [*overrides, f"--seed={seed}"])
        folder = runs / recipe.name / f"reproduce-s{seed}"
        _train(name, recipe, [*overrides, f"--seed={seed}"], folder)
        found[seed] = _scored(folder, tasks or recipe.expect.get("tasks"), score)
        folders.append(folder)
    summary = summarize(found, expect, why)
    summary["environment"] = read_json(folders[0] / "env.json")
    write_json(folders[0].parent / "reproduce.json", summary)
    return summary


def band_of(recipe: Recipe, overrides: Sequence[str], tasks: str | None) -> tuple[dict[str, Any], str]:
    """The band that a mean is compared with, and an empty text; or no band, and why."""
    expect = recipe.expect
    if not {"tasks", "low", "high"} <= expect.keys():
        own = tasks or "sts-mini-dev"
        return (
            {},
            f"recipe {recipe.name} declares none; a file declares one with expect: {{tasks: {own}, low: L, high: H}}",
        )
    if tasks not in {None, expect["tasks"]}:
        return {}, f"that of recipe {recipe.name} is of {expect['tasks']}, and {tasks} is scored"
    if overrides:
        return {}, f"that of recipe {recipe.name} is of the recipe as it is, and {' '.join(overrides)[:200]} is given"
    return dict(expect), ""


def summarize(scores: Mapping[int, float], expect: Mapping[str, Any], why: str = "") -> dict[str, Any]:
    """Mean, spread and verdict; `why` says why there is no band."""
    values = list(scores.values())
    mean = statistics.mean(values)
    verdict = NO_BAND
    if "low" in expect and "high" in expect:
        verdict = PASS if expect["low"] <= mean <= expect["high"] else OUTSIDE
    return {
        "scores": {str(seed): score for seed, score in scores.items()},
        "mean": mean,
        "sd": statistics.stdev(values) if len(values) > 1 else None,
        "min": min(values),
        "max": max(values),
        "expect": dict(expect),
        "verdict": verdict,
        "why": why,
    }


def lines(summary: Mapping[str, Any]) -> list[str]:
    """The summary, for the terminal."""
    sd = "" if summary["sd"] is None else f" ± {summary['sd']:.2f}"
    found = [f"seed {seed}   {score:.2f}" for seed, score in summary["scores"].items()]
    found.append(f"mean      {summary['mean']:.2f}{sd}   min {summary['min']:.2f}   max {summary['max']:.2f}")
    expect = summary["expect"]
    said = f"expected {expect['low']} to {expect['high']}" if summary["verdict"] != NO_BAND else summary["why"]
    return [*found, f"{summary['verdict']}   {said}"]


def _train(name: str, recipe: Recipe, overrides: Sequence[str], folder: Path) -> None:
    """Train, resume, or do nothing."""
    before = folder / "recipe.yaml"
    if before.is_file() and before.read_text(encoding="utf-8") != recipe.text:
        raise UserError(
            f"{folder} holds a run of other settings than {recipe.name} has now\n"
            f"fix: remove that folder, or give another place with --runs"
        )
    known = (folder / "state").exists()
    command = ["train", "--resume", str(folder)] if known else ["train", name, "--run-dir", str(folder), *overrides]
    if known and load_progress(folder / "state").finished:
        return
    if subprocess.run([sys.executable, "-m", "cse", *command], check=False).returncode:
        raise UserError(
            f"training into {folder} failed; its message is above\nfix: run the command again, which resumes it"
        )


def _scored(folder: Path, tasks: str | None, score: Score) -> float:
    """The average of a run's best checkpoint, scored unless it is already."""
    out, best = folder / results.name_for("best", tasks or "sts"), folder / "best"
    if not out.is_file() or results.read(out)["model"]["sha256"] != model_hash(best):
        score(best, out)
    average = results.read(out)["average"]["value"]
    if average is None:
        raise UserError(f"{best}: a task has no score, so there is no average\nfix: give --data DIR, or other --tasks")
    return float(average)
