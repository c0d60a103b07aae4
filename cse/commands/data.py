"""cse data: show what rows are, count them, and split, deduplicate, mix, cluster or curate them into files."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cse.commands import add_hardware
from cse.errors import UserError

if TYPE_CHECKING:
    from cse.data.checks import EvaluationSets
    from cse.data.datasets import Dataset

HELP = "show and count rows; split, deduplicate, mix, cluster or curate them into files"
KEPT = "a file is complete or unchanged"
ACTIONS = ("show", "stats", "split", "dedup", "mix", "cluster", "curate")
LABELS = 20  # labels that are shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions and their options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="|".join(ACTIONS))

    def action(name: str, text: str, nargs: str | int = "+") -> argparse.ArgumentParser:
        made = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", allow_abbrev=False)
        add_source(made, nargs)
        return made

    show = action("show", "show what is understood of a source: class, columns, first rows")
    show.add_argument("--rows", type=int, default=3, help="rows to show; default: %(default)s")
    stats = action("stats", "count rows, texts, lengths, languages, labels, repetitions")
    stats.add_argument("--out", type=Path, help="a .json file to write the counts to")
    stats.add_argument("--page", type=Path, metavar="FILE", help="an .html file to write, with charts of the counts")
    _add_against(stats, "evaluation sets to look for in the texts")
    split = action("split", "write train, dev and test files that have no text in common")
    split.add_argument("--dev", type=float, default=0.05, help="share of the rows; default: %(default)s")
    split.add_argument("--test", type=float, default=0.0, help="share of the rows; default: none")
    dedup = action("dedup", "write the rows without repetitions, and without texts of evaluation sets")
    near = "also leave out near-duplicates: least Jaccard similarity of their runs of 5 characters, such as 0.8"
    dedup.add_argument("--near", type=float, metavar="T", help=near)
    _add_against(dedup, "evaluation sets whose texts are left out")
    mix = action("mix", "write the rows of several sources into one file, in random order")
    mix.add_argument("--shares", type=float, nargs="+", help="share of each source; default: that of its size")
    mix.add_argument("--rows", type=int, help="rows to write; default: as many as the shares allow")
    cluster = action("cluster", "write the rows with the number of their cluster as label, for ClusterBatches", 1)
    cluster.add_argument("--model", required=True, help="a folder, asset:NAME or Hub id, whose vectors are clustered")
    cluster.add_argument("--clusters", type=int, required=True, metavar="N", help="number of clusters")
    cluster.add_argument("--prompt", metavar="NAME", help="prompt of the model (default: its default prompt)")
    add_hardware(cluster)
    curate = action("curate", "write the rows balanced by topic: few of frequent entries, and all of rare ones")
    entries = "file of words and names that rows may be about, one on each line; rows without one are left out"
    curate.add_argument("--entries", required=True, metavar="FILE", help=entries)
    most = "number of rows of an entry above which some are left out; default: by --tail"
    curate.add_argument("--t", type=float, metavar="T", help=most)
    tail = "share of matches that belongs to entries below T, from which T follows; default: 0.06"
    curate.add_argument("--tail", type=float, metavar="SHARE", help=tail)
    for each in (split, dedup, mix, cluster, curate):
        out = "a .parquet or .jsonl file; its manifest, a .json file, is written beside it"
        out = f"{out}; NAME.jsonl writes NAME-train.jsonl and so on" if each is split else out
        each.add_argument("--out", type=Path, required=True, help=out)
    for each in (split, mix, cluster, curate):
        each.add_argument("--seed", type=int, default=42, help="default: %(default)s")


def add_source(parser: argparse.ArgumentParser, nargs: str | int) -> None:
    """Declare the sources of rows and how they are read."""
    add = parser.add_argument
    add("sources", nargs=nargs, metavar="SOURCE", help="files, patterns, folders, asset:NAME, Hub ids")
    add("--class", dest="kind", help="Texts, Pairs, Triplets or ScoredPairs; default: the one that fits the columns")
    add("--columns", nargs="+", metavar="NAME", help="columns of texts; default: recognized by their names")
    for name in ("score", "weight", "label"):
        add(f"--{name}-column", metavar="NAME", help=f"column of {name}s")
    add("--teacher-columns", nargs="+", metavar="NAME", help="columns of a teacher's numbers; default: none")
    add("--split", default="train", help="split of a data set on the Hub; default: %(default)s")
    add("--limit", type=int, help="rows to read of each source; default: all")


def _add_against(parser: argparse.ArgumentParser, text: str) -> None:
    text += ": names of tasks, such as sts-mini or STSB-dev, or files; a task is read from CSE_DATA or the package"
    parser.add_argument("--against", nargs="+", default=[], metavar="SET", help=text)


def run(arguments: argparse.Namespace, _: list[str]) -> int:
    """Run one of the actions."""
    from cse.console import quiet

    quiet()
    actions = {"show": _show, "stats": _stats, "split": _split, "dedup": _dedup, "mix": _mix}
    return (actions | {"cluster": _cluster, "curate": _curate})[arguments.action](arguments)


def open_sources(a: argparse.Namespace) -> list[Dataset]:
    """The rows of the sources that were given."""
    from cse.data.datasets import open_rows

    def number(name: str | None) -> int | str | None:
        return int(name) if name is not None and name.isdecimal() else name

    def numbers(names: list[str] | None) -> list[int | str] | None:
        return None if names is None else [name for name in map(number, names) if name is not None]

    return [
        open_rows(
            source,
            kind=a.kind,
            columns=numbers(a.columns),
            score_column=number(a.score_column),
            weight_column=number(a.weight_column),
            label_column=number(a.label_column),
            teacher_columns=numbers(a.teacher_columns),
            split=a.split,
            limit=a.limit,
        )
        for source in a.sources
    ]


def _sets(names: Sequence[str]) -> EvaluationSets:
    """The rows of evaluation sets by name: files, or tasks whose rows are on this machine."""
    from cse.data.datasets import open_rows
    from cse.evaluation import sources, suite

    found: dict[str, Sequence[tuple[str, ...]]] = {}
    for name in names:
        if any(mark in name for mark in "./:*") or Path(name).exists():
            found[name] = [example.texts for example in open_rows(name)]
            continue
        for task in suite.resolve(name, "--against"):
            try:
                subsets = sources.load(task, check=False, hub=False).subsets.values()
            except sources.Missing as missing:
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
        from cse.evaluation import page
        from cse.evaluation.collect import Found

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


def _split(a: argparse.Namespace) -> int:
    from cse.data.tools.shares import split

    return _say_written(a, split(*open_sources(a), out=a.out, dev=a.dev, test=a.test, seed=a.seed))


def _dedup(a: argparse.Namespace) -> int:
    from cse.data.tools.deduplication import dedup

    return _say_written(a, dedup(*open_sources(a), out=a.out, near=a.near, against=_sets(a.against)))


def _mix(a: argparse.Namespace) -> int:
    from cse.data.tools.shares import mix

    return _say_written(a, mix(*open_sources(a), out=a.out, shares=a.shares, rows=a.rows, seed=a.seed))


def _cluster(a: argparse.Namespace) -> int:
    from cse.data.tools.writing import manifest_of
    from cse.files import read_json
    from cse.inference.cluster import cluster

    (data,), options = open_sources(a), {"device": a.device, "precision": a.precision, "prompt": a.prompt}
    cluster(a.model, data, a.out, clusters=a.clusters, seed=a.seed, **options)
    return _say_written(a, read_json(manifest_of(a.out)))


def _curate(a: argparse.Namespace) -> int:
    from cse.console import say
    from cse.data.tools.curation import curate

    manifest = curate(*open_sources(a), out=a.out, entries=a.entries, t=a.t, tail=a.tail, seed=a.seed)
    say("t", "{t:g}, below which entries have {tail:.1%} of the matches".format(**manifest["settings"]))
    return _say_written(a, manifest)


def _say_written(a: argparse.Namespace, manifest: Mapping[str, Any]) -> int:
    """Print the counts of a manifest, and the files."""
    from cse.console import say
    from cse.data.tools.writing import manifest_of

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
