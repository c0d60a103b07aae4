"""The one summary table in the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from cse.evaluation.reports import widths

MIXED = "scores × 100"


def show(results: Mapping[str, Any], console: Console | None = None) -> None:
    """Print a results dictionary."""
    console = console or make_console()
    model = results["model"]
    table = Table(title=f"{model['name']} · {results['precision']} · Spearman × 100", title_justify="left")
    for column in ("task", "n", "all", "95 %", "mean", "wmean", "Pearson", "text"):
        table.add_column(column, justify="left" if column in {"task", "text"} else "right", no_wrap=True)
    sts = {name: task for name, task in results["tasks"].items() if task["kind"] == "sts"}
    for name, task in sts.items():
        mean, wmean = ((task[a] or {}).get("spearman") for a in ("mean", "wmean"))
        table.add_row(
            name,
            str(task["n"]),
            f"[bold]{task['all']['spearman']:.2f}[/bold]",
            interval(task.get("interval")),
            number(mean),
            number(wmean),
            number(task["all"]["pearson"]),
            task["data"]["text"],
        )
    for name in results["missing"]:
        table.add_row(name, "-", "missing", *[""] * 5)
    average = results["average"]
    if len(sts) + len(results["missing"]) > 1 and len(sts) == len(results["tasks"]):
        table.add_section()
        table.add_row("average", "", number(average["value"]), interval(average.get("interval")), *[""] * 4)
    if sts or results["missing"]:
        console.print(table)
    _show_others(results, console)
    _show_transfer(results, console)
    _show_widths(results, console)
    _show_kinds(results, console)
    reasons = {f"{name} is missing": reason for name, reason in results["missing"].items()}
    reasons |= {f"{name} have no score": reason for name, reason in widths.undefined(results).items()}
    for what, reason in reasons.items():
        console.print(f"{what}: {reason}", highlight=False, markup=False)
    if model.get("pooler"):
        console.print(f"a backbone without modules.json, scored with the pooler {model['pooler']}", highlight=False)
    if model.get("prompt"):
        name = f" ({model['prompt_name']})" if model.get("prompt_name") else ""
        console.print(f"prompt before every text{name}: {model['prompt']!r}", highlight=False, markup=False)
    if average["missing"]:
        console.print(f"no average: {len(average['missing'])} of the requested tasks have no score", highlight=False)


def _show_others(results: Mapping[str, Any], console: Console) -> None:
    """The tasks of evaluators: one line for each measure, the headline first."""
    others = {name: task for name, task in results["tasks"].items() if task["kind"] != "sts"}
    if not others:
        return
    table = Table(title=f"{results['model']['name']} · {results['precision']} · {MIXED}", title_justify="left")
    for column in ("task", "n", "metric", "score", "95 %"):
        table.add_column(column, justify="left" if column in {"task", "metric"} else "right", no_wrap=True)
    for name, task in others.items():
        measures = sorted(task["measures"].items(), key=lambda item: item[0] != task["metric"])
        for i, (key, measure) in enumerate(measures):
            first = (name, f"{task['n']:,} {task['unit']}") if i == 0 else ("", "")
            score = f"[bold]{measure['value']:.2f}[/bold]" if i == 0 else number(measure["value"])
            table.add_row(*first, key, score, interval(measure.get("interval")))
    average = results["average"]
    if average["value"] is not None and len(others) > 1:
        table.add_section()
        table.add_row("average", "", average["metric"], number(average["value"]), interval(average.get("interval")))
    console.print(table)


def _show_transfer(results: Mapping[str, Any], console: Console) -> None:
    if "transfer" not in results:
        return
    table = Table(title=f"{results['model']['name']} · accuracy × 100", title_justify="left")
    for column in ("task", "n", "test", "95 %", "dev", "nearest mean", "F1"):
        table.add_column(column, justify="left" if column == "task" else "right")
    for name, task in results["transfer"].items():
        test = f"[bold]{task['accuracy']:.2f}[/bold]"
        rest = (number(task[key]) for key in ("dev", "nearest_mean", "f1"))
        table.add_row(name, str(task["n"]), test, interval(task.get("interval")), *rest)
    for name in results["transfer_average"]["missing"]:
        table.add_row(name, "-", "missing")
    table.add_section()
    table.add_row("average", "", number(results["transfer_average"]["accuracy"]))
    console.print(table)
    for name, reason in results["transfer_average"]["missing"].items():
        console.print(f"{name} is missing: {reason}", highlight=False, markup=False)


def _show_widths(results: Mapping[str, Any], console: Console) -> None:
    """The scores by width, one line for each."""
    columns, rows = widths.table(results)
    if not rows:
        return
    table = Table(title=MIXED, title_justify="left")
    for column in ("dimensions", *columns):
        table.add_column(column, justify="right", no_wrap=True)
    for width, values in rows:
        table.add_row(str(width), *(number(value) for value in values))
    console.print(table)


def _show_kinds(results: Mapping[str, Any], console: Console) -> None:
    """The scores of quantized vectors, one line for each kind."""
    columns, rows = widths.kinds(results)
    if not rows:
        return
    table = Table(title=MIXED, title_justify="left")
    for column in ("vectors", "bytes", *columns):
        table.add_column(column, justify="left" if column == "vectors" else "right", no_wrap=True)
    for kind, size, values in rows:
        table.add_row(kind, f"{size:,}", *(number(value) for value in values))
    console.print(table)


def show_mteb(summary: Mapping[str, Any], console: Console | None = None) -> None:
    """Print a summary of MTEB tasks."""
    console = console or make_console()
    table = Table(
        title=f"{summary['model']['name']} · {summary['precision']} · MTEB main score × 100", title_justify="left"
    )
    for column in ("task", "score", "data"):
        table.add_column(column, justify="right" if column == "score" else "left")
    for name, task in summary["tasks"].items():
        table.add_row(name, number(task["main_score"]), task["data"])
    for name, reason in summary["failed"].items():
        table.add_row(name, "failed", reason)
    console.print(table)


def make_console() -> Console:
    """The terminal as it is; wide enough for every table elsewhere."""
    console = Console()
    return console if console.is_terminal else Console(width=110)


def title(metrics: Iterable[str]) -> str:
    """What scores are: `Spearman × 100`, `ndcg@10 × 100`, or `scores × 100` if they differ."""
    names = set(metrics)
    if len(names) != 1:
        return MIXED
    name = names.pop()
    return f"{'Spearman' if name == 'spearman' else name} × 100"


def number(value: float | None) -> str:
    """Two decimals, or a dash."""
    return "-" if value is None else f"{value:.2f}"


def interval(bounds: list[float] | None) -> str:
    """Both ends, or nothing."""
    return "" if bounds is None else f"{bounds[0]:.1f}-{bounds[1]:.1f}"
