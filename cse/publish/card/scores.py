"""The scores of results.json as rows of the card's tables, and as the `model-index` of the Hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cse.files import DAMAGED, read_json
from cse.publish.card.words import MEASURES


def rows(results: Mapping[str, Any]) -> list[dict[str, str]]:
    """One row for each STS task: task, split, spearman, interval, mean, wmean, n, data."""
    found = []
    for name, task in results["tasks"].items():
        if task["kind"] != "sts":
            continue
        data = task.get("data") or {}
        found.append(
            {
                "task": name,
                "split": str(task.get("split") or "-"),
                "spearman": _number(task["all"]["spearman"]),
                "interval": _interval(task.get("interval")),
                "mean": _number((task.get("mean") or {}).get("spearman")),
                "wmean": _number((task.get("wmean") or {}).get("spearman")),
                "n": f"{task['n']:,}",
                "data": f"{data.get('text') or '-'} `{str(data.get('sha256') or '-')[:12]}`",
            }
        )
    return found


def others(results: Mapping[str, Any]) -> list[dict[str, str]]:
    """One row for each measure of an evaluator, the headline first: task, metric, score, interval, n, data."""
    found = []
    for name, task in results["tasks"].items():
        if task["kind"] == "sts":
            continue
        for metric, measure in sorted(task["measures"].items(), key=lambda item: item[0] != task["metric"]):
            first = metric == task["metric"]
            found.append(
                {
                    "task": name if first else "",
                    "metric": metric,
                    "score": f"**{_number(measure['value'])}**" if first else _number(measure["value"]),
                    "interval": _interval(measure.get("interval")),
                    "n": f"{task['n']:,} {task['unit']}" if first else "",
                    "data": f"`{str(task['data']['sha256'] or '-')[:12]}`" if first else "",
                }
            )
    return found


def average(results: Mapping[str, Any]) -> dict[str, str] | None:
    """The average over the tasks asked for; None if one of them is missing or there is only one."""
    mean = results.get("average") or {}
    score = (mean.get("all") or {}).get("spearman")
    if score is None or len(results["tasks"]) < 2:
        return None
    return {"spearman": _number(score), "interval": _interval(mean.get("interval"))}


def transfer(results: Mapping[str, Any]) -> list[dict[str, str]]:
    """One row for each transfer task: task, accuracy, interval, n."""
    return [
        {"task": n, "accuracy": _number(t["accuracy"]), "interval": _interval(t.get("interval")), "n": f"{t['n']:,}"}
        for n, t in (results.get("transfer") or {}).items()
    ]


def evaluations(results: Mapping[str, Any], seed: int | None, compared_by: str) -> list[Any]:
    """EvalResults for the header of the card; correlations are in [-1, 1], as sentence-transformers writes them."""
    from huggingface_hub import EvalResult

    found = []
    for name, task in results["tasks"].items():
        is_sts = task["kind"] == "sts"
        settings: dict[str, Any] = {"aggregation": "all", "pairs": task["n"]} if is_sts else {task["unit"]: task["n"]}
        if task.get("interval"):
            settings["interval_95"] = [round(bound / 100, 4) for bound in task["interval"]]
        if seed is not None:
            settings["seeds"] = [seed]
        found.append(
            EvalResult(
                task_type="semantic-similarity" if is_sts else str(task["kind"]).replace(" ", "-"),
                task_name="Semantic Similarity" if is_sts else str(task["kind"]).title(),
                dataset_type=str(task.get("task") or name).lower(),
                dataset_name=name,
                dataset_split=task.get("split"),
                metric_type=f"spearman_{compared_by}" if is_sts else task["metric"],
                metric_name=f"Spearman of {MEASURES[compared_by]}, all pairs" if is_sts else task["metric"],
                metric_value=round(task["value"] / 100, 6),
                metric_args=settings,
            )
        )
    return found


def changes(run: Path | None, checkpoint: str) -> list[dict[str, str]]:
    """One row per set that the run scored before training, too: task, before, after, change, interval, verdict."""
    path = run / "helped.json" if run is not None else None
    if path is None or not path.is_file():
        return []
    try:
        found = [row for row in read_json(path)["rows"] if row["checkpoint"] == checkpoint]
        return [
            {
                "task": f"{row['task']} ({row['part']})",
                "before": _number(row["before"]),
                "after": _number(row["after"]),
                "change": f"{row['difference']:+.2f}",
                "interval": "{:+.2f} to {:+.2f}".format(*row["interval"]) if row["interval"] else "-",
                "verdict": str(row["verdict"]),
            }
            for row in found
        ]
    except DAMAGED:  # damaged; the card does without
        return []


def seeds_of(run: Path | None) -> dict[str, Any] | None:
    """The summary of `make reproduce` over seeds, if this run is one of them: {n, mean, sd, tasks, seeds}."""
    path = run.parent / "reproduce.json" if run is not None and run.name.startswith("reproduce-s") else None
    if path is None or not path.is_file():
        return None
    try:
        summary = read_json(path)
        spread = "-" if summary["sd"] is None else _number(summary["sd"])
        tasks = str((summary.get("expect") or {}).get("tasks") or "the tasks asked for")
        seeds = list(summary["scores"])
        return {"n": len(seeds), "mean": _number(summary["mean"]), "sd": spread, "tasks": tasks, "seeds": seeds}
    except DAMAGED:  # written by another program; the card does without it
        return None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _interval(bounds: Any) -> str:
    return f"{bounds[0]:.1f} to {bounds[1]:.1f}" if bounds else "-"
