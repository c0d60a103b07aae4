"""The report as one HTML page that needs nothing else: charts are SVG, script and style are inside."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from cse.evaluation import svg
from cse.evaluation.collect import Entry, Found, by_recipe, spread
from cse.evaluation.compare import ALPHA, Difference
from cse.evaluation.svg import Series

HERE = Path(__file__).parent
BINS = 40
WORST = 10  # pairs a task

Pairwise = dict[tuple[int, int], dict[str, Difference]]


def render(found: Found, pairwise: Pairwise, title: str) -> str:
    """The page."""
    entries = found.entries
    sections = [
        ("scores", "Scores", _scores(entries)),
        ("curves", "Learning curves", _curves(found)),
        ("geometry", "Alignment against uniformity", _geometry(found)),
        ("compare", "Compare two checkpoints", _compare(entries, pairwise)),
        ("checkpoints", "Each checkpoint", _checkpoints(entries)),
    ]
    sections = [s for s in sections if s[2]]
    nav = "".join(f'<a href="#{key}">{name}</a>' for key, name, _ in sections)
    body = "".join(f'<section id="{key}"><h2>{name}</h2>{content}</section>' for key, name, content in sections)
    skipped = "".join(f'<p class="soft">Skipped: {escape(why)}</p>' for why in found.skipped)
    data = json.dumps(_embedded(pairwise)).replace("</", "<\\/")
    about = f"{len(entries)} results, {len(found.curves)} runs"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_read("page.css")}</style></head><body>'
        f'<h1>{escape(title)}</h1><p class="soft">{about}. Spearman × 100 over '
        f"all pairs of a task; small: bootstrap 95 % interval.</p><nav>{nav}</nav>{body}{skipped}"
        f'<script type="application/json" id="data">{data}</script><script>{_read("page.js")}</script></body></html>\n'
    )


def _scores(entries: Sequence[Entry]) -> str:
    return "".join(_table(name, [e for e in entries if e.requested == name]) for name in _requested(entries))


def _requested(entries: Iterable[Entry]) -> list[str]:
    return list(dict.fromkeys(e.requested for e in entries))


def _table(requested: str, entries: Sequence[Entry]) -> str:
    tasks = list(dict.fromkeys(t for e in entries for t in (*e.results["tasks"], *e.results["missing"])))
    best = max((e.average for e in entries if e.average is not None), default=None)
    rows = []
    for e in entries:
        cells = [_cell(e.results["tasks"].get(task), "all") for task in tasks]
        average = _cell(e.results["average"], "all", "best" if e.average == best and len(entries) > 1 else "")
        seed = "" if e.seed is None else str(e.seed)
        rows.append(f"<tr><td>{escape(e.label)}</td><td>{seed}</td>{''.join(cells)}{average}</tr>")
    for recipe, runs in by_recipe(entries).items():
        values = [
            [r.results["tasks"][task]["all"]["spearman"] for r in runs if task in r.results["tasks"]] for task in tasks
        ]
        values.append([r.average for r in runs if r.average is not None])
        cells = [f"<td>{spread(v) if len(v) > 1 else '-'}</td>" for v in values]
        rows.append(f'<tr class="seeds"><td>{escape(recipe)}</td><td>{len(runs)} seeds</td>{"".join(cells)}</tr>')
    head = "".join(f"<th>{escape(name)}</th>" for name in ["checkpoint", "seed", *tasks, "average"])
    return f'<h3>{escape(requested)}</h3><div class="wide"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _cell(item: dict[str, Any] | None, aggregation: str, cls: str = "") -> str:
    value = item and item[aggregation]["spearman"]
    if item is None or value is None:
        return '<td class="soft">-</td>'
    bounds = item["interval"]
    small = f"<small>{bounds[0]:.1f} to {bounds[1]:.1f}</small>" if bounds else ""
    return f'<td class="{cls}">{value:.2f}{small}</td>'


def _curves(found: Found) -> str:
    parts = []
    for key, label in (("dev", "dev score"), ("loss", "training loss")):
        series = _series(found, "step", key)
        if series:
            parts.append(f"<h3>{label}</h3><figure>{svg.lines(series, 'step', label)}</figure>")
    return "".join(parts)


def _series(found: Found, x: str, y: str) -> list[Series]:
    """One line for each run that logged both."""
    series = []
    for curve in found.curves:
        points = [(r[x], r[y]) for r in curve.records if x in r and y in r]
        if points:
            series.append(Series(curve.label, [p[0] for p in points], [p[1] for p in points]))
    return series


def _geometry(found: Found) -> str:
    series = _series(found, "uniform", "align")
    parts = []
    if series:
        parts.append(
            "<p>Of training batches, step by step; the ring is where a run ended. Lower left is better.</p>"
            f"<figure>{svg.lines(series, 'uniformity', 'alignment')}</figure>"
        )
    final = [e for e in found.entries if e.results.get("geometry")]
    ends = [
        Series(e.label, [g["uniformity"]], [g["alignment"]])
        for e in final
        if (g := e.results["geometry"])["alignment"] is not None and g["uniformity"] is not None
    ]
    if ends:
        parts.append(f"<h3>Of the scored sentences</h3><figure>{svg.lines(ends, 'uniformity', 'alignment')}</figure>")
    rows = []
    for e in final:
        g = e.results["geometry"]
        measures = [_number(g[key], 3) for key in ("alignment", "uniformity", "mean_cosine")]
        rows.append(_row([escape(e.label), *measures, f"{g['effective_rank']:.0f} of {g['dim']}"]))
    head = _row(["checkpoint", "alignment", "uniformity", "mean cosine", "effective rank"], "th")
    return "".join(parts) + (f"<table>{head}{''.join(rows)}</table>" if rows else "")


def _compare(entries: Sequence[Entry], pairwise: Pairwise) -> str:
    if not pairwise:
        return ""
    used = sorted({i for pair in pairwise for i in pair})
    first, second = next(iter(pairwise))

    def select(name: str, chosen: int) -> str:
        options = (_option(i, f"{entries[i].label} ({entries[i].requested})", i == chosen) for i in used)
        return f'<label>{name.upper()} <select id="{name}">{"".join(options)}</select></label>'

    return (
        "<p>Paired bootstrap over pairs, Holm's correction over the rows of the table.</p>"
        f'<p>{select("a", first)}</p><p>{select("b", second)}</p><div id="comparison" class="wide"></div>'
    )


def _checkpoints(entries: Sequence[Entry]) -> str:
    if not entries:
        return ""
    options = "".join(_option(i, f"{e.label} ({e.requested})", i == 0) for i, e in enumerate(entries))
    parts = [f'<p><label>checkpoint <select id="which">{options}</select></label></p>']
    for i, e in enumerate(entries):
        parts.append(
            f'<div data-checkpoint="{i}"><h3>{escape(e.label)} ({escape(e.requested)})</h3>'
            f"{_histograms(e)}{_overlap(e)}{_worst(e)}</div>"
        )
    return "".join(parts)


def _histograms(entry: Entry) -> str:
    if entry.scored is None:
        return '<p class="soft">No similarities lie beside this results file.</p>'
    cosine = np.concatenate(list(entry.scored.cosine.values()))
    grade = np.rint(np.concatenate(list(entry.scored.gold.values()))).astype(int)
    low = float(np.floor(cosine.min() * 10) / 10)
    grades = sorted(set(grade.tolist()))
    counts = [np.histogram(cosine[grade == g], bins=BINS, range=(low, 1.0))[0].tolist() for g in grades]
    figure = svg.ridges(counts, [f"gold {g}" for g in grades], low, 1.0)
    return f"<h4>Similarity by gold grade</h4><figure>{figure}</figure>"


def _overlap(entry: Entry) -> str:
    rows = []
    for q in (entry.results.get("geometry") or {}).get("overlap") or []:
        if q["jaccard"]:
            low, high = q["jaccard"]
            rows.append(_row([f"{low:.2f} to {high:.2f}", str(q["n"]), _number(q["spearman"], 2)]))
    head = _row(["shared words", "pairs", "Spearman"], "th")
    return f"<h4>Score by lexical overlap</h4><table>{head}{''.join(rows)}</table>" if rows else ""


def _worst(entry: Entry) -> str:
    parts = []
    for name, task in entry.results["tasks"].items():
        rows = [_row(["one", "other", "gold", "cosine", ""], "th", text=2)]
        for w in task["worst"][:WORST]:
            verdict = "too similar" if w["gap"] > 0 else "too different"
            cells = [escape(w["sentence1"]), escape(w["sentence2"]), f"{w['gold']:.1f}", f"{w['cosine']:.2f}", verdict]
            rows.append(_row(cells, text=2))
        parts.append(f'<h4>Most wrong: {escape(name)}</h4><div class="wide"><table>{"".join(rows)}</table></div>')
    return "".join(parts)


def _row(cells: Sequence[str], tag: str = "td", text: int = 0) -> str:
    """A row of a table, the first cells of which are running text."""
    classes = [' class="text"' if i < text else "" for i in range(len(cells))]
    return f"<tr>{''.join(f'<{tag}{c}>{cell}</{tag}>' for c, cell in zip(classes, cells, strict=True))}</tr>"


def _embedded(pairwise: Pairwise) -> dict[str, Any]:
    pairs = {
        f"{i},{j}": {
            name: {"a": d.a, "b": d.b, "low": d.interval[0], "high": d.interval[1], "p": d.adjusted}
            for name, d in differences.items()
        }
        for (i, j), differences in pairwise.items()
    }
    return {"alpha": ALPHA, "pairs": pairs}


def _option(value: int, text: str, chosen: bool) -> str:
    return f'<option value="{value}"{" selected" if chosen else ""}>{escape(text)}</option>'


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")
