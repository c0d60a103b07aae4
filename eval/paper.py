"""`python -m eval reproduce-paper [RECIPE ...]`: train published recipes, beside the published scores.

`--plan` prints what each would take, by estimate: a card whose products are used to 30 %, which small batches do not
reach. Each seed has a folder, RUNS/RECIPE/paper-s<seed>, that is trained and scored once: the same command resumes what
was interrupted. `--hub DIR` takes repositories from DIR/owner/name where they are there, such as a mirror on a cluster
without the Hub.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from scipy.stats import t as student

from cse import recipe as recipes
from cse.encoder.checkpoint.identity import model_hash
from cse.errors import UserError
from cse.evaluation import results
from cse.files import read_json, write_json, write_text
from eval.reproduce import FIRST_SEED

SCORE = re.compile(r"average (?:of seven tasks )?(\d\d\.\d\d)|: (\d\d\.\d\d)(?: ± [\d.]+)? published")
STEPS = re.compile(r"([\d,]+) steps of")
TASKS = ("sts", "transfer")
SIZES = {  # a part of a backbone's name -> millions of parameters without embeddings, and with them; layers, width
    "small": (21, 33, 12, 384),
    "large": (303, 335, 24, 1024),
    "distil": (43, 66, 6, 768),
    "": (86, 110, 12, 768),
}
TOKENS = 32  # of a text at most, for the estimate: the sentences of Wikipedia and NLI have fewer
FLOPS, USED = 312e12, 0.3  # of an A100 in 16 bits, and the part of them that is assumed to be used
STATE, ACTIVATIONS = 16, 34  # bytes of a parameter and its optimizer; of a token, layer and dimension


def published(header: dict[str, str]) -> tuple[str, float] | None:
    """The tasks, and the average that a recipe's header says was published on them; None if it names none."""
    said = header.get("expected", "")
    found = SCORE.search(said)
    if found is None or not said.startswith(("STS", "transfer")):
        return None
    return ("transfer" if said.startswith("transfer") else "sts"), float(found[1] or found[2])


def plan(names: Sequence[str]) -> list[list[str]]:
    """Rows of a table: recipe, published average, steps, GPU hours of a seed, GB, and what it fetches."""
    rows = [["recipe", "published", "steps", "GPU hours a seed", "GB", "needs"]]
    for name in names:
        path = recipes.find(name)
        header, content = recipes.header(path), recipes.read(path)
        trainer, score = content["trainer"], published(header)
        passes = int(re.match(r"\d+", header["cost"])[0])  # type: ignore[index]  # a test asks for it
        counted = STEPS.search(header["cost"])
        backbone = content["encoder"]["init_args"]["backbone"]
        inner, whole, layers, width = next(size for part, size in SIZES.items() if part in backbone)
        tokens = trainer["batch_size"] * passes * min(TOKENS, _length(content))
        steps = int(counted[1].replace(",", "")) if counted else None
        hours = f"{steps * tokens * 6 * inner * 1e6 / (FLOPS * USED) / 3600:.1f}" if steps else "-"
        chunk = (
            trainer.get("chunk_tokens")
            or trainer.get("chunk_size", trainer["batch_size"]) * tokens // trainer["batch_size"]
        )
        gigabytes = (whole * 1e6 * STATE + chunk * layers * width * ACTIVATIONS) / 1e9
        shown = f"{score[0]} {score[1]:.2f}" if score else "-"
        needs = header.get("needs", "").removesuffix("; from the Hub")
        rows.append([name, shown, f"{steps:,}" if steps else "-", hours, f"{gigabytes:.0f}", needs])
    return rows


def _length(content: dict[str, Any]) -> int:
    """The maximal length of a recipe's collator, or of the one that it is around."""
    arguments = content["collator"].get("init_args") or {}
    inner = arguments.get("views")
    return _length({"collator": inner}) if isinstance(inner, dict) else int(arguments.get("max_length", TOKENS))


def run(
    name: str,
    seeds: int,
    runs: Path,
    *,
    overrides: Sequence[str] = (),
    processes: int | None = None,
    data: str | None = None,
    hub: Path | None = None,
    unchecked: bool = False,
) -> dict[str, Any]:
    """Train and score the seeds of a recipe that are not done yet.

    Args:
        name: The recipe.
        seeds: Number of seeds, from 42 on.
        runs: The folder of the runs.
        overrides: Options of the recipe; with them, there is no verdict.
        processes: Processes, and cards, of a run.
        data: A folder with the rows of STS and of the transfer tasks; see `cse eval --data`.
        hub: A folder of repositories that takes the place of the Hub.
        unchecked: Whether the tasks may have other numbers of rows than the published ones.

    Returns:
        The summary, which is also written to RUNS/RECIPE/paper.json.
    """
    if seeds < 1:
        raise UserError(f"--seeds is {seeds}\nfix: give a number >= 1")
    folder = runs / Path(name).name
    file = _from_mirror(name, hub, folder) if hub is not None else name
    scores: dict[str, dict[str, float]] = {task: {} for task in TASKS}
    hours = 0.0
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        of_seed = folder / f"paper-s{seed}"
        hours += _train(str(file), of_seed, [f"--seed={seed}", *overrides], processes)
        for task in TASKS:
            average = _scored(of_seed, task, data, unchecked)
            scores[task] |= {str(seed): average} if average is not None else {}
    known = published(recipes.header(recipes.find(name)))
    summary = {"recipe": name, "scores": scores, "published": known, "gpu_hours": hours * (processes or 1)}
    summary |= {"overrides": list(overrides)} | verdict(scores, known, changed=bool(overrides))
    write_json(folder / "paper.json", summary)
    return summary


def verdict(scores: dict[str, dict[str, float]], known: tuple[str, float] | None, *, changed: bool) -> dict[str, Any]:
    """Mean, deviation and 95 % interval of the seeds, and how the published average stands to the interval."""
    task = known[0] if known else "sts"
    values = list(scores[task].values())
    if not values:
        return {"task": task, "verdict": "not scored: the rows of the tasks are missing"}
    mean, sd = statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None
    found: dict[str, Any] = {"task": task, "mean": mean, "sd": sd, "interval": None}
    if sd is not None:
        half = float(student.ppf(0.975, len(values) - 1)) * sd / len(values) ** 0.5
        found["interval"] = [mean - half, mean + half]
    low, high = found["interval"] or (mean, mean)
    if changed:
        said = "no verdict, since options of the recipe are given"
    elif known is None:
        said = "no average is published"
    elif low <= known[1] <= high:
        said = "reproduced"
    elif sd is None:
        said = f"{mean - known[1]:+.2f}; one seed has no interval"
    else:
        said = f"below by {known[1] - high:.2f}" if high < known[1] else f"above by {low - known[1]:.2f}"
    return found | {"verdict": said}


def rows(summaries: Sequence[dict[str, Any]]) -> list[list[str]]:
    """The rows of a table of summaries."""
    found = [["recipe", "published", "ours", "95 %", "verdict", "GPU hours"]]
    for one in summaries:
        known, interval = one["published"], one.get("interval")
        ours = f"{one['mean']:.2f}" + (f" ± {one['sd']:.2f}" if one["sd"] is not None else "") if "mean" in one else "-"
        shown = f"{interval[0]:.2f} to {interval[1]:.2f}" if interval else "-"
        about = f"{known[0]} {known[1]:.2f}" if known else "-"
        found.append([one["recipe"], about, ours, shown, one["verdict"], f"{one['gpu_hours']:.2f}"])
    return found


def aligned(table: Sequence[Sequence[str]]) -> str:
    """A table as text, its columns as wide as their longest cell."""
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    return "".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() + "\n" for row in table)


def _from_mirror(name: str, hub: Path, folder: Path) -> Path:
    """A copy of the recipe, whose repositories are folders where the mirror has them."""

    def replaced(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: replaced(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [replaced(inner) for inner in value]
        if not isinstance(value, str) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?(:[\w./-]+)?", value):
            return value
        repo, _, file = value.partition(":")
        there = hub / repo / file if file else hub / repo
        return str(there.resolve()) if there.exists() else value

    path = folder / f"{Path(name).name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, yaml.safe_dump(replaced(recipes.read(recipes.find(name))), sort_keys=False))
    return path


def _train(recipe: str, folder: Path, overrides: Sequence[str], processes: int | None) -> float:
    """Train or resume; returns the hours of all attempts."""
    note = folder / "hours.json"
    before = float(read_json(note)) if note.is_file() else 0.0
    began = time.monotonic()
    command = [sys.executable, "-m", "cse", "train", recipe, "--run-dir", str(folder), "--resume", "auto", *overrides]
    command += ["--processes", str(processes)] if processes is not None else []
    code = subprocess.run(command, check=False).returncode
    hours = before + (time.monotonic() - began) / 3600
    if folder.is_dir():
        write_json(note, hours)
    if code:
        raise UserError(f"training into {folder} ended with {code}; its message is above\nfix: run the command again")
    return hours


def _scored(folder: Path, task: str, data: str | None, unchecked: bool) -> float | None:
    """The average of the run's best checkpoint on the tasks, scored unless it is already; None without their rows."""
    best, out = folder / "best", folder / results.name_for("best", task)
    if not out.is_file() or results.read(out)["model"]["sha256"] != model_hash(best):
        command = [sys.executable, "-m", "cse", "eval", str(best), "--tasks", task, "--out", str(out)]
        command += (["--data", data] if data else []) + ["--unchecked"] * unchecked
        code = subprocess.run(command, check=False).returncode
        if code and task == "sts":
            raise UserError(f"scoring {best} ended with {code}; its message is above\nfix: run the command again")
        if code:  # the rows of the transfer tasks are not on the Hub
            sys.stdout.write("without    transfer: give its rows with --data\n")
            return None
    found = results.read(out)
    average = found["average"] if task == "sts" else found["transfer_average"]
    value = average.get("value", average.get("accuracy"))
    return None if value is None else float(value)
