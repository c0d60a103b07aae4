"""The one table: cells under headings, for a terminal, Markdown or a page; and the tables of results."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from cse.console import inline
from cse.evaluation.reports.collect import Entry, by_recipe, spread
from cse.evaluation.reports.svg import Series
from cse.evaluation.results import scores_of

MIXED, AVERAGE = "scores × 100", "average"
WIDTHS, CODES = "dimensions", "quantized"
REDUCED = {WIDTHS: "{width} dimensions", CODES: "{kind} vectors"}  # keys of results, and their entries


class Cell(str):
    """The text of a cell.

    Attributes:
        note: Small print below it on a page, such as the 95 % interval of a score.
        code: What follows it in Markdown as code.
        strong: Whether it stands out.
        best: Whether no other row has more.
    """

    note: str
    code: str
    strong: bool
    best: bool

    def __new__(
        cls, text: str = "-", note: str = "", *, code: str = "", strong: bool = False, best: bool = False
    ) -> Cell:
        """A cell."""
        made = super().__new__(cls, text)
        made.note, made.code, made.strong, made.best = note, code, strong, best
        return made


@dataclass(frozen=True)
class Table:
    """Cells under headings."""

    heads: Sequence[str]  # the headings
    rows: Sequence[Sequence[str]]  # the cells of each row, which may be fewer than the headings
    left: Collection[str] = ()  # the headings whose cells are words; all others hold numbers, and are at the right
    title: str = ""  # what the scores are
    name: str = ""  # what was scored, under the name by which it was asked for
    totals: int = 0  # number of rows at the end that a line sets apart
    wrap: bool = False  # whether a terminal may break the text of a cell

    def markdown(self) -> str:
        """The table in Markdown, without its title."""
        rule = [":--" if head in self.left else "--:" for head in self.heads]
        lines = [[inline(head) for head in self.heads], rule]
        lines += [[_marked(cell) for cell in row] + [""] * (len(self.heads) - len(row)) for row in self.rows]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def terminal(self) -> RichTable:
        """The table for a terminal."""
        made = RichTable(title=self.title, title_justify="left")
        for head in self.heads:
            made.add_column(
                head,
                justify="left" if head in self.left else "right",
                no_wrap=not self.wrap,
                overflow="fold" if self.wrap else "ellipsis",
            )
        for i, row in enumerate(self.rows):
            if self.totals and i == len(self.rows) - self.totals:
                made.add_section()
            made.add_row(*(f"[bold]{escape(cell)}[/bold]" if _is(cell, "strong") else escape(cell) for cell in row))
        return made


def _is(cell: str, what: str) -> bool:
    return bool(getattr(cell, what, False))


def _marked(cell: str) -> str:
    text = f"**{inline(cell)}**" if _is(cell, "strong") else inline(cell)
    return f"{text} `{inline(cell.code)}`".strip() if isinstance(cell, Cell) and cell.code else text


def show(results: Mapping[str, Any], console: Console | None = None) -> None:
    """Print a results dictionary."""
    console = console or make_console()
    for table in tables(results):
        console.print(table.terminal())
        if table.name == "transfer":
            for name, reason in results["transfer_average"]["missing"].items():
                console.print(f"{name} is missing: {reason}", highlight=False, markup=False)
    for text in _notes(results):
        console.print(text, highlight=False, markup=False)


def _notes(results: Mapping[str, Any]) -> Iterator[str]:
    """Note what the tables do not say."""
    model, average = results["model"], results["average"]
    for name, reason in results["missing"].items():
        yield f"{name} is missing: {reason}"
    for key, what in REDUCED.items():
        for entry in results.get(key) or []:
            if "undefined" in entry:
                yield f"{what.format(**entry)} have no score: {entry['undefined']}"
    if model.get("pooler"):
        yield f"a backbone without modules.json, scored with the pooler {model['pooler']}"
    if model.get("prompt"):
        name = f" ({model['prompt_name']})" if model.get("prompt_name") else ""
        yield f"prompt before every text{name}: {model['prompt']!r}"
    if average["missing"]:
        yield f"no average: {len(average['missing'])} of the requested tasks have no score"


def tables(results: Mapping[str, Any]) -> Iterator[Table]:
    """The tables of a results dictionary, as a terminal shows them."""
    about, average = f"{results['model']['name']} · {results['precision']}", results["average"]
    sts = {name: task for name, task in results["tasks"].items() if "all" in task}
    others, missing = len(results["tasks"]) - len(sts), results["missing"]
    rows: list[Sequence[str]] = []
    for name, task in sts.items():
        means = [number((task[mean] or {}).get("spearman")) for mean in ("mean", "wmean")]
        rest = [interval(task.get("interval")), *means, number(task["all"]["pearson"]), task["data"]["text"]]
        rows.append([name, str(task["n"]), Cell(number(task["all"]["spearman"]), strong=True), *rest])
    rows += [[name, "-", "missing"] for name in missing]
    if averaged := len(rows) > 1 and not others:
        rows.append(["average", "", number(average["value"]), interval(average.get("interval"))])
    if rows:
        heads = ("task", "n", "all", "95 %", "mean", "wmean", "Pearson", "text")
        yield Table(heads, rows, ("task", "text"), f"{about} · Spearman × 100", totals=int(averaged))
    if others:
        rows = [
            [name, n, metric, score, interval(measure.get("interval"))]
            for name, n, metric, score, measure in by_measure(results)
        ]
        if averaged := average["value"] is not None and others > 1:
            last = number(average["value"]), interval(average.get("interval"))
            rows.append(["average", "", average["metric"], *last])
        yield Table(
            ("task", "n", "metric", "score", "95 %"),
            rows,
            ("task", "metric"),
            f"{about} · {MIXED}",
            totals=int(averaged),
        )
    if "transfer" in results:
        yield _transfer(results)
    for key in REDUCED:
        if found := reduced(results, key):
            yield found


def by_measure(results: Mapping[str, Any]) -> Iterator[tuple[str, str, str, Cell, Mapping[str, Any]]]:
    """List each measure of an evaluator, the headline first: task and units (once), name, score, entry in results."""
    for name, task in results["tasks"].items():
        measures = sorted(task["measures"].items(), key=lambda item: item[0] != task["metric"])
        for i, (metric, measure) in enumerate(() if "all" in task else measures):
            first = i == 0
            about = (name, f"{task['n']:,} {task['unit']}") if first else ("", "")
            yield *about, metric, Cell(number(measure["value"]), strong=first), measure


def _transfer(results: Mapping[str, Any]) -> Table:
    average, rows = results["transfer_average"], list[Sequence[str]]()
    for name, task in results["transfer"].items():
        rest = [number(task[key]) for key in ("dev", "nearest_mean", "f1")]
        accuracy = Cell(number(task["accuracy"]), strong=True)
        rows.append([name, str(task["n"]), accuracy, interval(task.get("interval")), *rest])
    rows += [[name, "-", "missing"] for name in average["missing"]]
    rows.append(["average", "", number(average["accuracy"])])
    heads = ("task", "n", "test", "95 %", "dev", "nearest mean", "F1")
    title = f"{results['model']['name']} · accuracy × 100"
    return Table(heads, rows, ("task",), title, "transfer", totals=1, wrap=True)


def reduced(results: Mapping[str, Any], key: str) -> Table | None:
    """The scores of reduced vectors, those of `dimensions` or `quantized` in the results; None if there are none."""
    entries = results.get(key) or []
    columns, values = _columns(entries)
    of_widths = key == WIDTHS
    heads = ["dimensions"] if of_widths else ["vectors", "bytes"]
    first = [[str(e["width"])] if of_widths else [str(e["kind"]), f"{e['bytes']:,}"] for e in entries]
    rows = [[*names, *map(number, each)] for names, each in zip(first, values, strict=True)]
    return Table([*heads, *columns], rows, ("vectors",), MIXED) if rows else None


def _columns(entries: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[float | None]]]:
    """The names of the scores of reduced vectors (tasks, then the average if there are several), and their rows."""
    known = [{**scores_of(e), AVERAGE: e["average"]} for e in entries]
    tasks = list(dict.fromkeys(name for e in entries for name in scores_of(e)))
    averaged = len(tasks) > 1 and any(e["average"] is not None for e in entries)
    columns = [*tasks, *([AVERAGE] if averaged else [])]
    return columns, [[each.get(name) for name in columns] for each in known]


def series(results: Mapping[str, Any]) -> list[Series]:
    """One line for each column of the scores by width: the score against the width."""
    entries = results.get(WIDTHS) or []
    columns, values = _columns(entries)
    found = []
    for i, name in enumerate(columns):
        points = [(e["width"], row[i]) for e, row in zip(entries, values, strict=True) if row[i] is not None][::-1]
        found += [Series(name, [float(w) for w, _ in points], [float(v or 0) for _, v in points])] if points else []
    return found


def at_width(results: Mapping[str, Any], width: int) -> dict[str, Any] | None:
    """The results of vectors of one width alone, without intervals; None if they have no scores at this width."""
    entry = next((e for e in results.get(WIDTHS) or [] if e["width"] == width), None)
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


def score_tables(entries: Sequence[Entry]) -> list[Table]:
    """The scores of a folder of runs: one table per set of tasks, with the checkpoints, then the means over seeds.

    The name of a mean stands out, and the note of a score is its interval.
    """
    names = dict.fromkeys(e.requested for e in entries)
    return [_scores(name, [e for e in entries if e.requested == name]) for name in names]


def _scores(requested: str, entries: Sequence[Entry]) -> Table:
    tasks = list(dict.fromkeys(t for e in entries for t in (*e.results["tasks"], *e.results["missing"])))
    best = max((e.average for e in entries if e.average is not None), default=None)
    rows: list[Sequence[str]] = []
    for e in entries:
        is_best = len(entries) > 1 and e.average is not None and e.average == best
        cells = [_score(e.results["tasks"].get(task)) for task in tasks]
        seed = "-" if e.seed is None else str(e.seed)
        rows.append([Cell(e.label), Cell(seed), *cells, _score(e.results["average"], best=is_best)])
    for recipe, runs in by_recipe(e for e in entries if e.seed is not None and e.average is not None).items():
        if len({run.seed for run in runs}) == 1:
            continue
        values = [[r.results["tasks"][t]["value"] for r in runs if t in r.results["tasks"]] for t in tasks]
        values.append([r.average for r in runs if r.average is not None])
        cells = [Cell(spread(v)) if len(v) > 1 else Cell() for v in values]
        rows.append([Cell(recipe, strong=True), Cell(f"{len(runs)} seeds"), *cells])
    metrics = {name: str(task["metric"]) for e in entries for name, task in e.results["tasks"].items()}
    said = f"{title(metrics.values())} over all pairs" if set(metrics.values()) == {"spearman"} else ""
    if len(set(metrics.values())) > 1:
        said = f"{MIXED} ({', '.join(f'{name}: {metric}' for name, metric in metrics.items())})"
    heads = ["checkpoint", "seed", *tasks, "average"]
    return Table(heads, rows, ("checkpoint",), said or title(metrics.values()), requested)


def _score(item: Mapping[str, Any] | None, best: bool = False) -> Cell:
    if item is None or item["value"] is None:
        return Cell(best=best)
    bounds = item.get("interval")
    return Cell(number(item["value"]), "{:.1f} to {:.1f}".format(*bounds) if bounds else "", best=best)


def show_mteb(summary: Mapping[str, Any]) -> None:
    """Print a summary of MTEB tasks."""
    rows = [[name, number(task["main_score"]), task["data"]] for name, task in summary["tasks"].items()]
    rows += [[name, "failed", reason] for name, reason in summary["failed"].items()]
    about = f"{summary['model']['name']} · {summary['precision']} · MTEB main score × 100"
    make_console().print(Table(("task", "score", "data"), rows, ("task", "data"), about, wrap=True).terminal())


def make_console() -> Console:
    """The terminal as it is; wide enough for every table elsewhere."""
    console = Console()
    return console if console.is_terminal else Console(width=110)


def title(metrics: Iterable[str]) -> str:
    """Name what scores are: `Spearman × 100`, `ndcg@10 × 100`, or `scores × 100` if they differ."""
    names = set(metrics)
    if len(names) != 1:
        return MIXED
    name = names.pop()
    return f"{'Spearman' if name == 'spearman' else name} × 100"


def number(value: float | None) -> str:
    """Two decimals, or a dash."""
    return "-" if value is None else f"{value:.2f}"


def interval(bounds: Sequence[float] | None) -> str:
    """Both ends, or nothing."""
    return "" if bounds is None else f"{bounds[0]:.1f}-{bounds[1]:.1f}"
