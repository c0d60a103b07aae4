"""The scores of results.json as the card's tables, and as the `model-index` of the Hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cse.evaluation.reports.table import Cell, Table, by_measure, number
from cse.files import DAMAGED, read_json

MEASURES = {"cosine": "cosine", "euclidean": "Euclidean distance"}


def sts(results: Mapping[str, Any]) -> Table | None:
    """The STS tasks, and their average if none is missing and there are several."""
    rows: list[Sequence[str]] = []
    for name, task in results["tasks"].items():
        if "all" in task:
            data = task.get("data") or {}
            means = [number((task.get(mean) or {}).get("spearman")) for mean in ("mean", "wmean")]
            score = Cell(number(task["all"]["spearman"]), strong=True)
            text = Cell(str(data.get("text") or "-"), code=str(data.get("sha256") or "-")[:12])
            split = str(task.get("split") or "-")
            rows.append([name, split, score, _interval(task.get("interval")), *means, f"{task['n']:,}", text])
    mean = results.get("average") or {}
    average = (mean.get("all") or {}).get("spearman")
    if rows and average is not None and len(results["tasks"]) > 1:
        rows.append(["average", "", Cell(number(average), strong=True), _interval(mean.get("interval"))])
    heads = ("task", "split", "all", "95 %", "mean", "wmean", "pairs", "text, sha256")
    return Table(heads, rows, ("task", "split", "95 %", "text, sha256")) if rows else None


def others(results: Mapping[str, Any]) -> Table | None:
    """The measures of evaluators, the headline of each first."""
    rows = []
    for name, n, metric, score, measure in by_measure(results):
        sha256 = str(results["tasks"][name]["data"]["sha256"] or "-")[:12] if name else ""
        rows.append([name, metric, score, _interval(measure.get("interval")), n, Cell("", code=sha256)])
    return (
        Table(("task", "metric", "score", "95 %", "n", "sha256"), rows, ("task", "metric", "95 %", "sha256"))
        if rows
        else None
    )


def transfer(results: Mapping[str, Any]) -> Table | None:
    """The transfer tasks."""
    found = (results.get("transfer") or {}).items()
    rows = [[n, number(t["accuracy"]), _interval(t.get("interval")), f"{t['n']:,}"] for n, t in found]
    return Table(("task", "accuracy", "95 %", "texts"), rows, ("task", "95 %")) if rows else None


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


def changes(run: Path | None, checkpoint: str) -> Table | None:
    """The sets that the run scored before training, too."""
    path = run / "helped.json" if run is not None else None
    if path is None or not path.is_file():
        return None
    try:
        rows = []
        for row in read_json(path)["rows"]:
            scores = number(row["before"]), number(row["after"]), f"{row['difference']:+.2f}"
            bounds = "{:+.2f} to {:+.2f}".format(*row["interval"]) if row["interval"] else "-"
            if row["checkpoint"] == checkpoint:
                rows.append([f"{row['task']} ({row['part']})", *scores, bounds, str(row["verdict"])])
    except DAMAGED:  # the card does without
        return None
    heads = ("set", "before", "this model", "change", "95 %", "verdict")
    return Table(heads, rows, ("set", "95 %", "verdict")) if rows else None


def seeds_of(run: Path | None) -> dict[str, Any] | None:
    """The summary of `make reproduce` over seeds, if this run is one of them: {n, mean, sd, tasks, seeds}."""
    path = run.parent / "reproduce.json" if run is not None and run.name.startswith("reproduce-s") else None
    if path is None or not path.is_file():
        return None
    try:
        summary = read_json(path)
        spread = "-" if summary["sd"] is None else number(summary["sd"])
        tasks = str((summary.get("expect") or {}).get("tasks") or "the tasks asked for")
        seeds = list(summary["scores"])
        return {"n": len(seeds), "mean": number(summary["mean"]), "sd": spread, "tasks": tasks, "seeds": seeds}
    except DAMAGED:  # written by another program; the card does without it
        return None


def _interval(bounds: Any) -> str:
    return f"{bounds[0]:.1f} to {bounds[1]:.1f}" if bounds else "-"
