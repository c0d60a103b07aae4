"""The report as one HTML page that needs nothing else: charts are SVG, script and style are inside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from cse.evaluation.comparison import ALPHA, Difference
from cse.evaluation.reports import svg
from cse.evaluation.reports.collect import Entry, Found
from cse.evaluation.reports.svg import Series
from cse.evaluation.reports.table import score_tables, series

HERE = Path(__file__).parent
BINS = 40
WORST = 10  # pairs per task
Pairwise = dict[tuple[int, int], dict[str, Difference]]
LABELS = 20  # labels with a bar of their own
Figure = tuple[str, Markup]  # a heading and a chart


def render(found: Found, pairwise: Pairwise, title: str) -> str:
    """The page of a folder of runs, with the differences of checkpoints by their places among the entries."""
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined)
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}  # tasks stay in their order
    first, second = next(iter(pairwise), (0, 0))
    return environment.get_template("page.html").render(
        title=title,
        css=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        js=Markup((HERE / "page.js").read_text(encoding="utf-8")),
        runs=len(found.curves),
        tables=score_tables(found.entries),
        curves=_curves(found),
        widths=_widths(found),
        geometry={"figures": _geometry_figures(found), "rows": _geometry_rows(found.entries)},
        compared={"first": first, "second": second, "places": sorted({i for pair in pairwise for i in pair})},
        sources=[section for report in found.texts for section in sections(report["data"], report)],
        entries=[_checkpoint(entry) for entry in found.entries],
        skipped=found.skipped,
        data=_embedded(pairwise),
    )


def _curves(found: Found) -> list[Figure]:
    drawn = ((label, _series(found, "step", key)) for key, label in (("dev", "dev score"), ("loss", "training loss")))
    return [(label, Markup(svg.lines(series, "step", label))) for label, series in drawn if series]


def _series(found: Found, x: str, y: str) -> list[Series]:
    """One line for each run that logged both."""
    series = []
    for curve in found.curves:
        points = [(r[x], r[y]) for r in curve.records if x in r and y in r]
        if points:
            series.append(Series(curve.label, [p[0] for p in points], [p[1] for p in points]))
    return series


def _widths(found: Found) -> list[Figure]:
    """A chart for each set of tasks whose checkpoints were scored by width: the average, or the only score."""
    figures = []
    for requested in dict.fromkeys(e.requested for e in found.entries):
        lines = [(e.label, series(e.results)) for e in found.entries if e.requested == requested]
        drawn = [Series(label, each[-1].x, each[-1].y) for label, each in lines if each]
        if drawn:
            figures.append((requested, Markup(svg.lines(drawn, "dimensions", "score"))))
    return figures


def _geometry_figures(found: Found) -> list[Figure]:
    ends = [
        Series(e.label, [g["uniformity"]], [g["alignment"]])
        for e in found.entries
        if (g := e.results.get("geometry")) and g["alignment"] is not None and g["uniformity"] is not None
    ]
    drawn = (
        ("Training batches, step by step; a ring marks the end of a run; lower left is better",
         _series(found, "uniform", "align")),
        ("The scored sentences", ends),
    )  # fmt: skip
    return [(name, Markup(svg.lines(series, "uniformity", "alignment"))) for name, series in drawn if series]


def _geometry_rows(entries: Sequence[Entry]) -> list[list[str]]:
    rows = []
    for e in entries:
        if g := e.results.get("geometry"):
            measures = [_number(g[key], 3) for key in ("alignment", "uniformity", "mean_cosine")]
            rows.append([e.label, *measures, f"{g['effective_rank']:.0f} of {g['dim']}"])
    return rows


def _checkpoint(entry: Entry) -> dict[str, Any]:
    return {
        "label": entry.label,
        "requested": entry.requested,
        "histograms": _histograms(entry),
        "overlap": [
            [f"{q['jaccard'][0]:.2f} to {q['jaccard'][1]:.2f}", str(q["n"]), _number(q["spearman"], 2)]
            for q in (entry.results.get("geometry") or {}).get("overlap") or []
            if q["jaccard"]
        ],
        "traps": _traps((entry.results.get("geometry") or {}).get("traps") or {}),
        "worst": [(name, task["worst"][:WORST]) for name, task in entry.results["tasks"].items() if "worst" in task],
    }


def _traps(found: Mapping[str, Any]) -> list[list[str]]:
    """Pairs whose words mislead: what they are, their number, and their mean similarity."""
    kinds = (("trap", "many shared words, another meaning"), ("reverse", "few shared words, the same meaning"))
    rows = [[said, f"{found[kind]['n']:,}", _number(found[kind]["cosine"], 2)] for kind, said in kinds if found]
    return [*rows, ["Spearman × 100 for a given overlap", "", _number(found["partial"], 2)]] if found else []


def _histograms(entry: Entry) -> Markup | None:
    if entry.scored is None or not entry.scored.cosine:
        return None
    cosine = np.concatenate(list(entry.scored.cosine.values()))
    grade = np.rint(np.concatenate(list(entry.scored.gold.values()))).astype(int)
    low = float(np.floor(cosine.min() * 10) / 10)
    grades = sorted(set(grade.tolist()))
    counts = [np.histogram(cosine[grade == g], bins=BINS, range=(low, 1.0))[0].tolist() for g in grades]
    return Markup(svg.ridges(counts, [f"gold {g}" for g in grades], low, 1.0))


def _embedded(pairwise: Pairwise) -> dict[str, Any]:
    """The data with which `page.js` compares checkpoints."""
    pairs = {
        f"{i},{j}": {
            name: {"a": d.a, "b": d.b, "low": d.interval[0], "high": d.interval[1], "p": d.adjusted}
            for name, d in differences.items()
        }
        for (i, j), differences in pairwise.items()
    }
    return {"alpha": ALPHA, "pairs": pairs}


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


@dataclass(frozen=True)
class Section:
    """Rows of text: what they are named, facts with their values, charts, and what evaluation sets share with them."""

    name: str
    facts: list[tuple[str, str]]
    figures: list[Figure]
    overlap: list[tuple[str, str, str]]


def sections(name: str, report: Mapping[str, Any]) -> Iterator[Section]:
    """The sections of a report of `cse.data.checks` or `cse.data.stats`; a mixture has one for each source."""
    if "sources" in report:
        for source, own in report["sources"].items():
            yield from sections(f"{name}: {source}", own)
        return
    shared = [
        (set_name, f"{each['shared_texts']:,} of {each['texts']:,}", f"{each['shared_pairs']:,} of {each['pairs']:,}")
        for set_name, each in report["overlap"].items()
    ]
    yield Section(name, list(_facts(report)), list(_figures(report)), shared)


def _facts(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "rows", f"{report['rows']:,}"
    for reason, count in report["left_out"].items():
        yield f"left out: {reason.replace('_', ' ')}", f"{count:,}"
    yield "rows with the same text twice", f"{report['texts']['same_in_row']:,}"
    for unit in ("words", "tokens"):
        if unit in report:
            figures = "mean {mean}, median {median}, 95 % up to {p95}, longest {max}".format(**report[unit])
            yield f"{unit} of a text", figures
    if "tokens" in report:
        tokens = report["tokens"]
        yield f"texts cut at {tokens['max_length']} tokens", f"{tokens['truncated']:,}"
    if "scores" in report:
        yield "scores", "{min:g} to {max:g}, mean {mean:.3g}".format(**report["scores"])


def _figures(report: Mapping[str, Any]) -> Iterator[Figure]:
    for unit in ("words", "tokens"):
        if unit in report:
            yield f"Length in {unit}", _bars(report[unit]["histogram"], "texts")
    texts = report["texts"]
    known = {
        "different": texts["distinct_normalized"],
        "differ in case or marks": texts["distinct"] - texts["distinct_normalized"],
        "repeat an earlier text": texts["all"] - texts["distinct"],
    }
    yield f"Repetitions among {texts['all']:,} texts", _bars(known, "texts")
    sample = f"in a sample of {report['languages_sample']:,} texts"
    for title, shares in ((f"Languages, guessed {sample}", "languages"), (f"Scripts of letters {sample}", "scripts")):
        if report[shares]:
            yield title, _bars({key: 100 * share for key, share in report[shares].items()}, "%")
    if report.get("labels"):
        counts = sorted(report["labels"].items(), key=lambda item: (-item[1], item[0]))
        shown = dict(counts[:LABELS])
        if len(counts) > LABELS:
            shown[f"{len(counts) - LABELS:,} others"] = sum(count for _, count in counts[LABELS:])
        yield f"{len(counts):,} labels", _bars(shown, "rows")


def _bars(values: Mapping[str, float], unit: str) -> Markup:
    return Markup(svg.bars(list(values), list(values.values()), unit))
