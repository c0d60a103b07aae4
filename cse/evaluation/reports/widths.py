"""Scores of reduced vectors, `dimensions` and `quantized` of results.json, as tables and charts show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cse.evaluation.reports.svg import Series


def table(results: Mapping[str, Any]) -> tuple[list[str], list[tuple[int, list[float | None]]]]:
    """The columns (tasks, then the average if there are several) and the rows of the scores by width; empty if none."""
    entries = results.get("dimensions") or []
    columns, values = _table(entries)
    return columns, [(int(e["width"]), each) for e, each in zip(entries, values, strict=True)]


def kinds(results: Mapping[str, Any]) -> tuple[list[str], list[tuple[str, int, list[float | None]]]]:
    """The same of quantized vectors: each row has the kind, the bytes of a vector, and its scores."""
    entries = results.get("quantized") or []
    columns, values = _table(entries)
    return columns, [(str(e["kind"]), int(e["bytes"]), each) for e, each in zip(entries, values, strict=True)]


def undefined(results: Mapping[str, Any]) -> dict[str, str]:
    """Why reduced vectors have no scores, by what they are: `2 dimensions`, `binary vectors`."""
    widths = {f"{e['width']} dimensions": e for e in results.get("dimensions") or []}
    kinds = {f"{e['kind']} vectors": e for e in results.get("quantized") or []}
    return {name: e["undefined"] for name, e in (widths | kinds).items() if "undefined" in e}


def _table(entries: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[float | None]]]:
    tasks = list(dict.fromkeys(name for e in entries for name in (*e["tasks"], *(e.get("transfer") or {}))))
    averaged = len(tasks) > 1 and any(e["average"] is not None for e in entries)
    rows = []
    for e in entries:
        known = {**e["tasks"], **(e.get("transfer") or {})}
        rows.append([known.get(t) for t in tasks] + ([e["average"]] if averaged else []))
    return [*tasks, *(["average"] if averaged else [])], rows


def series(results: Mapping[str, Any]) -> list[Series]:
    """One line for each column of `table`: the score against the width."""
    columns, rows = table(results)
    points = {name: [(w, v[i]) for w, v in reversed(rows) if v[i] is not None] for i, name in enumerate(columns)}
    return [Series(n, [float(w) for w, _ in p], [float(v or 0) for _, v in p]) for n, p in points.items() if p]


def at_width(results: Mapping[str, Any], width: int) -> dict[str, Any] | None:
    """The results of vectors of one width alone, without intervals; None if they have no scores at this width."""
    entry = next((e for e in results.get("dimensions") or [] if e["width"] == width), None)
    if entry is None or "undefined" in entry:
        return None
    tasks = {}
    for name, task in results["tasks"].items():
        value = entry["tasks"][name]
        tasks[name] = {**task, "value": value, "interval": None}
        if "all" in task:
            tasks[name] |= {"all": {"spearman": value, "pearson": None}, "mean": None, "wmean": None, "subsets": {}}
    average = {**results["average"], "value": entry["average"], "interval": None}
    if "all" in average:
        average["all"] = {"spearman": entry["average"], "pearson": None, "rounded": None}
    accuracies = (entry.get("transfer") or {}).items()
    known = results.get("transfer") or {}
    transfer = {name: {**known[name], "accuracy": value, "interval": None} for name, value in accuracies}
    return {**results, "tasks": tasks, "average": average, "transfer": transfer, "geometry": None}
