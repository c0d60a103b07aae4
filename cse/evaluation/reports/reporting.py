"""A report on a folder of runs: Markdown tables for a README or a card, and one HTML page. `cse eval report RUNS`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cse.console import inline
from cse.errors import UserError
from cse.evaluation import results
from cse.evaluation.comparison import Difference, compare_all
from cse.evaluation.reports import methods, page
from cse.evaluation.reports.collect import Entry, Found, collect
from cse.evaluation.reports.table import CODES, WIDTHS, reduced, score_tables
from cse.files import check_writable, write_text

MOST = 24  # checkpoints of one set of tasks that are compared with each other


def report(
    runs: str | Path = "runs",
    out: Path | None = None,
    *,
    baseline: str | None = None,
    tasks: str | None = None,
    summary: Path | None = None,
    note: str = "",
) -> Found:
    """Write `report.md` and `report.html` into a folder.

    Args:
        runs: Folder in which results and logs are looked for.
        out: Folder for the two files. None: the folder of runs.
        baseline: Recipe that every method is compared with, over seeds, in a table of its own.
        tasks: Report only the results on these tasks, named as they were when they were scored.
        summary: With `baseline`, which was scored on one set of tasks: write its table of methods as JSON.
        note: With `summary`: the conditions of the runs, kept in the file.

    Returns:
        The results and curves that were found.

    Raises:
        UserError: The folder has nothing to report, or no complete results of the baseline.
    """
    runs = Path(runs)
    out = out or runs
    if summary and not baseline:
        raise UserError("--json writes the table of methods, which needs a baseline\nfix: add --baseline RECIPE")
    found = collect(runs)
    check_writable(out / "report.html")
    if summary:
        check_writable(summary, "--json")
    if tasks:
        found = dataclasses.replace(found, entries=[e for e in found.entries if e.requested == tasks])
    if not found.entries and (tasks or baseline or not found.curves):
        logs = "" if found.curves else " and no metrics.jsonl of a run"
        what = f"no results on {tasks}" if tasks else f"no results.json{logs}"
        what += f"; {found.skipped[0]}" if found.skipped else ""
        raise UserError(
            f"{runs} has {what}\nfix: score a checkpoint first: cse eval CHECKPOINT --out {runs}/results.json"
        )
    text = markdown(found.entries)
    if baseline:
        compared = summaries(found.entries, baseline, note)
        text = "\n".join([*(_titled(one) for one in compared), text])
        if summary and len(compared) > 1:
            names = "; ".join(one["requested"] for one in compared)
            raise UserError(
                f"--json: {baseline} was scored on several sets of tasks: {names}\nfix: name one with --tasks"
            )
        if summary:
            results.write(compared[0], summary, option="--json")
    html = page.render(found, differences(found.entries), "Results")
    for name, content in (("report.md", text), ("report.html", html)):
        write_text(out / name, content)
    return found


def summaries(entries: Sequence[Entry], baseline: str, note: str = "") -> list[dict[str, Any]]:
    """One summary of methods for each set of tasks that the baseline was scored on.

    Raises:
        UserError: No results of the baseline are complete.
    """
    asked = dict.fromkeys(e.requested for e in entries if e.recipe == baseline) or dict.fromkeys(
        e.requested for e in entries
    )
    return [methods.summarize(methods.methods([e for e in entries if e.requested == r], baseline), note) for r in asked]


def differences(entries: Sequence[Entry], resamples: int = 1000) -> dict[tuple[int, int], dict[str, Difference]]:
    """Differences of every two checkpoints that were scored on the same tasks, by their places in the list."""
    found: dict[tuple[int, int], dict[str, Difference]] = {}
    for requested in dict.fromkeys(e.requested for e in entries):
        places = [i for i, e in enumerate(entries) if e.requested == requested and e.scored is not None][:MOST]
        if len(places) < 2:
            continue
        scored = [s for i in places if (s := entries[i].scored)]
        try:
            pairs = compare_all(scored, resamples)
        except UserError:  # two checkpoints only, scored on different rows: there is nothing to compare
            continue
        found |= {(places[i], places[j]): d for (i, j), d in pairs.items()}
    return found


def markdown(entries: Sequence[Entry]) -> str:
    """One table for each set of tasks."""
    parts = []
    for table in score_tables(entries):
        rows = [[*row, getattr(row[-1], "note", "")] for row in table.rows]
        shown = dataclasses.replace(table, heads=[*table.heads, "95 %"], rows=rows)
        parts.append(f"{inline(table.title)}, `{inline(table.name)}`\n\n{shown.markdown()}")
    for key, what in ((WIDTHS, " by the number of dimensions that are kept"), (CODES, ", vectors that were quantized")):
        for entry in entries:
            if found := reduced(entry.results, key):
                name = f"{inline(entry.label)} (`{inline(entry.requested)}`)"
                parts.append(f"{name}{what}\n\n{found.markdown()}")
    return "\n".join(parts)


def _titled(summary: dict[str, Any]) -> str:
    what = "Spearman × 100 over all pairs" if summary["metric"] == "spearman" else f"{summary['metric']} × 100"
    title = f"{inline(what)}, `{inline(summary['requested'])}`: methods, mean ± standard deviation over seeds"
    return f"{title}\n\n{methods.markdown(summary)}"
