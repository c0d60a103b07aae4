"""`python -m eval report RUNS`: a Markdown table for README and card, and one HTML page to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cse.errors import UserError
from cse.evaluation import methods, page
from cse.evaluation.collect import Entry, Found, by_recipe, collect, spread
from cse.evaluation.compare import Difference, compare_all
from cse.files import atomic_file

MOST = 24  # checkpoints of one set of tasks that are compared with each other


def write(runs: Path, out: Path, title: str = "Results", baseline: str | None = None) -> Found:
    """Write `report.md` and `report.html` into a folder.

    Args:
        runs: Where results and logs are looked for.
        out: Where to.
        title: Of the page.
        baseline: A recipe that all others are compared with, in a table of its own.

    Raises:
        UserError: There is nothing to report, or nothing of the baseline.
    """
    found = collect(runs)
    if not found.entries and not found.curves:
        raise UserError(
            f"{runs} holds no results.json of `python -m eval ... --out` and no metrics.jsonl of a run.\n"
            f"Score a checkpoint first: python -m eval CKPT --out {runs}/results.json"
        )
    text = markdown(found.entries)
    if baseline:
        text = f"{compared(found.entries, baseline)}\n{text}"
    html = page.render(found, differences(found.entries), title)
    for name, content in (("report.md", text), ("report.html", html)):
        with atomic_file(out / name) as scratch:
            scratch.write_text(content, encoding="utf-8")
    return found


def compared(entries: Sequence[Entry], baseline: str) -> str:
    """One table of methods for each set of tasks that the baseline was scored on."""
    asked = list(dict.fromkeys(e.requested for e in entries if e.recipe == baseline)) or _requested(entries)
    tables = [
        methods.markdown(methods.summarize(methods.methods([e for e in entries if e.requested == r], baseline)))
        for r in asked
    ]
    titles = (f"Spearman × 100 over all pairs, `{r}`: methods, mean ± standard deviation over seeds" for r in asked)
    return "\n".join(f"{title}\n\n{table}" for title, table in zip(titles, tables, strict=True))


def differences(entries: Sequence[Entry], resamples: int = 1000) -> dict[tuple[int, int], dict[str, Difference]]:
    """Every two checkpoints that were asked for the same tasks, by their places in the list."""
    found: dict[tuple[int, int], dict[str, Difference]] = {}
    for requested in dict.fromkeys(e.requested for e in entries):
        places = [i for i, e in enumerate(entries) if e.requested == requested and e.scored is not None][:MOST]
        if len(places) < 2:
            continue
        scored = [s for i in places if (s := entries[i].scored)]
        try:
            pairs = compare_all(scored, resamples)
        except UserError:  # of two only, and on different rows: there is nothing to compare
            continue
        found |= {(places[i], places[j]): d for (i, j), d in pairs.items()}
    return found


def markdown(entries: Sequence[Entry]) -> str:
    """One table for each set of tasks."""
    return "\n".join(_table(name, [e for e in entries if e.requested == name]) for name in _requested(entries))


def _requested(entries: Sequence[Entry]) -> list[str]:
    return list(dict.fromkeys(e.requested for e in entries))


def _table(requested: str, entries: Sequence[Entry]) -> str:
    tasks = list(dict.fromkeys(t for e in entries for t in (*e.results["tasks"], *e.results["missing"])))
    rows = [["checkpoint", "seed", *tasks, "average", "95 %"], [":--", "--:", *["--:"] * (len(tasks) + 2)]]
    for e in entries:
        scores = [_number(e.results["tasks"].get(t, {}).get("all", {}).get("spearman")) for t in tasks]
        bounds = e.results["average"]["interval"]
        interval = f"{bounds[0]:.1f} to {bounds[1]:.1f}" if bounds else "-"
        rows.append([e.label.replace("|", "\\|"), str(e.seed or "-"), *scores, _number(e.average), interval])
    for recipe, runs in by_recipe(entries).items():
        means = [[r.results["tasks"][t]["all"]["spearman"] for r in runs if t in r.results["tasks"]] for t in tasks]
        means.append([r.average for r in runs if r.average is not None])
        cells = [spread(values) if len(values) > 1 else "-" for values in means]
        rows.append([f"**{recipe}**", f"{len(runs)} seeds", *cells, ""])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"Spearman × 100 over all pairs, `{requested}`\n\n{table}\n"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
