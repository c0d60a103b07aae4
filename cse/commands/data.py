"""cse data: show what rows are, count them, and split, deduplicate, mix, cluster or curate them into files."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cse.commands import call, declare
from cse.errors import UserError

if TYPE_CHECKING:
    from cse.data.checks import EvaluationSets
    from cse.data.datasets import Dataset

HELP = "show and count rows; split, deduplicate, mix, cluster or curate them into files"
KEPT = "a file is complete or unchanged"
VERBS = {  # the actions that write a file, each a function
    "split": "cse.data.tools.shares:split",
    "dedup": "cse.data.tools.deduplication:dedup",
    "mix": "cse.data.tools.shares:mix",
    "cluster": "cse.inference.cluster:cluster",
    "curate": "cse.data.tools.curation:curate",
}
ACTIONS = {
    "show": "show what is understood of a source: class, columns, first rows",
    "stats": "count rows, texts, lengths, languages, labels, repetitions",
    "split": "write train, dev and test files that have no text in common",
    "dedup": "write the rows without repetitions, and without texts of evaluation sets",
    "mix": "write the rows of several sources into one file, in random order",
    "cluster": "write the rows with the number of their cluster as label, for ClusterBatches",
    "curate": "write the rows balanced by topic: few of frequent entries, and all of rare ones",
}
OPEN = "cse.data.datasets:open_rows"
LABELS = 20  # labels that are shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="|".join(ACTIONS))
    for name, text in ACTIONS.items():
        action = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", allow_abbrev=False)
        add_source(action, 1 if name == "cluster" else "+")
        if name in VERBS:
            omit = {"rows", "columns", "limit"} if name == "cluster" else {"against"}
            declare(action, VERBS[name], {"model": "--model"}, omit)
        if name == "show":
            action.add_argument("--rows", type=int, default=3, help="rows to show; default: %(default)s")
        elif name == "stats":
            action.add_argument("--out", type=Path, help="a .json file to write the counts to")
            page = "an .html file to write, with charts of the counts"
            action.add_argument("--page", type=Path, metavar="FILE", help=page)
        if name in {"stats", "dedup"}:
            against = (
                "evaluation sets whose texts are looked for, and left out by dedup: names of tasks, such as sts-mini "
                "or STSB-dev, or files; a task is read from CSE_DATA or the package"
            )
            action.add_argument("--against", nargs="+", default=[], metavar="SET", help=against)


def add_source(parser: argparse.ArgumentParser, nargs: str | int) -> None:
    """Declare the sources of rows and how they are read."""
    parser.add_argument("sources", nargs=nargs, metavar="SOURCE", help="files, patterns, folders, asset:NAME, Hub ids")
    declare(parser, OPEN, {"kind": "--class"}, omit={"source"})


def run(arguments: argparse.Namespace, _: list[str]) -> int:
    from cse.console import quiet

    quiet()
    actions = {"show": _show, "stats": _stats}
    return actions.get(arguments.action, _write)(arguments)


def open_sources(a: argparse.Namespace) -> list[Dataset]:
    """The rows of the sources that were given."""
    return [call(OPEN, a, source) for source in a.sources]


def _sets(names: Sequence[str]) -> EvaluationSets:
    """The rows of evaluation sets by name: files, or tasks whose rows are on this machine."""
    from cse.data.datasets import open_rows
    from cse.evaluation.evaluators import sts_rows

    found: dict[str, Sequence[tuple[str, ...]]] = {}
    for name in names:
        if any(mark in name for mark in "./:*") or Path(name).exists():
            found[name] = [example.texts for example in open_rows(name)]
            continue
        for task in sts_rows.resolve(name, "--against"):
            try:
                subsets = sts_rows.load(task, check=False, hub=False).subsets.values()
            except sts_rows.Missing as missing:
                raise UserError(f"--against {name}: {missing}\nfix: set CSE_DATA, or give a file") from missing
            found[task.name] = [row for pairs in subsets for row in zip(pairs.first, pairs.second, strict=True)]
    return found


def _show(a: argparse.Namespace) -> int:
    from cse.console import say
    from cse.data.tools.writing import UNITS, names_of, records

    if a.rows < 0:
        raise UserError(f"--rows is {a.rows}\nfix: give an integer >= 0")
    for data in open_sources(a):
        say("data", data.describe())
        say("class", f"{UNITS[data.unit]}; columns when written: {', '.join(names_of([data]))}")
        say("columns", data.understood or "as they were named")
        _say_left_out(data)
        for number, row in enumerate(records(data, range(min(a.rows, len(data)))), 1):
            for name, value in row.items():
                say(f"row {number}", f"{name}: {value}")
    return 0


def _say_left_out(data: Dataset) -> None:
    from cse.console import say
    from cse.data.checks import remarks

    left_out = ", ".join(f"{count:,} {reason}" for reason, count in data.report.items() if count)
    say("left out", left_out or "nothing")
    for remark in remarks(data):
        say("warning", remark)


def _stats(a: argparse.Namespace) -> int:
    from cse.commands.check import describe
    from cse.console import say
    from cse.data.checks import stats
    from cse.files import check_writable, write_json, write_text

    for file, option in ((a.out, "--out"), (a.page, "--page")):
        if file:
            check_writable(file, option)
    data, sets, found = open_sources(a), _sets(a.against), list[dict[str, Any]]()
    for each in data:
        report = stats(each, sets)
        found.append(report)
        say("data", each.describe())
        say("columns", each.understood or "as they were named")
        _say_left_out(each)
        for key, text in (*describe(report), *_values(report)):
            say(key, text)
    if a.out:
        write_json(a.out, found)
        say("wrote", str(a.out))
    if a.page:
        from cse.evaluation.reports import page
        from cse.evaluation.reports.collect import Found

        write_text(a.page, page.render(Found(texts=found), {}, "Data"))
        say("wrote", str(a.page))
    return 0


def _values(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The lines on labels and scores."""
    if "labels" in report:
        counts = sorted(report["labels"].items(), key=lambda item: (-item[1], item[0]))
        yield "labels", f"{len(counts):,}"
        yield from (("", f"{count:>8,} {name}") for name, count in counts[:LABELS])
        if len(counts) > LABELS:
            yield "", f"and {len(counts) - LABELS:,} more"
    if "scores" in report:
        yield "scores", "{min:g} to {max:g}, mean {mean:.3g}".format(**report["scores"])


def _write(a: argparse.Namespace) -> int:
    """Call the function of an action, and print the counts of the manifest, and the files."""
    from cse.console import say
    from cse.data.tools.writing import manifest_of
    from cse.files import read_json

    data = open_sources(a)
    if a.action == "cluster":
        call(VERBS[a.action], a, rows=data[0])
    else:
        call(VERBS[a.action], a, *data, **({"against": _sets(a.against)} if a.action == "dedup" else {}))
    manifest = read_json(manifest_of(a.out))
    if a.action == "curate":
        say("t", "{t:g}, below which entries have {tail:.1%} of the matches".format(**manifest["settings"]))
    for source in manifest["sources"]:
        say("data", f"{source['path']} {source['rows']:,} rows; {source['understood'] or source['class']}")
    for name, count in manifest["counts"].items():
        if isinstance(count, int):
            say(name.replace("_", " "), f"{count:,}")
    for name, count in manifest["counts"].get("against", {}).items():
        say("against", f"{name}: {count:,} rows")
    for each in manifest["counts"].get("by_source", []):
        say("source", f"{each['path']} {each['rows']:,}")
    files = ", ".join(str(a.out.with_name(file["path"])) for file in manifest["out"])
    say("wrote", f"{files}   settings and counts: {manifest_of(a.out).name}")
    return 0
