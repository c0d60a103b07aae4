"""What `cse.data.checks` counts of training text, as tables and charts of the report page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from cse.evaluation import svg

LABELS = 20  # labels with a bar of their own

Figure = tuple[str, Markup]  # a heading and a chart


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
