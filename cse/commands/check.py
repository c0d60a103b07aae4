"""cse check: validate recipes without training, and report on the data of those that are named."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cse.recipe import Recipe

HELP = "validate recipes without training, and report on the data of those that are named"
TAKES_OVERRIDES = True
WIDTH = 40  # characters of the longest bar of a histogram


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    parser.epilog = (
        "Options of a recipe are given as --data.path=my.txt. A recipe is code: a file may "
        "name classes of this package, and of other modules with --trusted-modules=MODULE,MODULE."
    )
    add("recipes", nargs="*", metavar="recipe", help="recipes to check; default: all of them, without their data")
    add("--no-data", action="store_true", help="only validate the recipe; no data are read or fetched")
    add("--eval-data", metavar="DIR", help="folder of more evaluation sets, besides CSE_DATA, to compare with")


def run(arguments: argparse.Namespace, overrides: list[str]) -> int:
    """Validate each recipe; the first one that fails raises."""
    from cse.console import quiet, say
    from cse.recipe import load, names, try_out
    from cse.recipe.settings import Settings
    from cse.training.hardware import require_machine

    for name in arguments.recipes or names():
        recipe = load(name, overrides)
        try_out(recipe)
        require_machine(Settings(**vars(recipe.config.trainer)))
        say("ok", name)
        if arguments.recipes and not arguments.no_data:
            quiet()
            for key, text in _look(recipe, arguments.eval_data):
                say(key, text)
    return 0


def _look(recipe: Recipe, eval_data: str | None) -> Iterator[tuple[str, str]]:
    from cse.data.checks import EvaluationSets, KnowsTexts, overlap_warnings, remarks
    from cse.training.callbacks import examine
    from cse.training.sources import sources
    from cse.training.start import assemble

    run = assemble(recipe, Path("unwritten"))
    sets: EvaluationSets = run.evaluator.texts(eval_data) if isinstance(run.evaluator, KnowsTexts) else {}
    for name, source in sources(run).items():
        options = vars(recipe.config.data.init_args)
        if name:
            yield "source", name
            options = vars(options["sources"][name].data.init_args)
        report = examine(source, sets)
        left_out = ", ".join(f"{count:,} {reason}" for reason, count in report["left_out"].items())
        yield "data", f"{source.data.describe()}; left out: {left_out or 'nothing'}"
        if source.data.understood:
            yield "columns", source.data.understood
        else:
            yield from _columns(options)
        yield from describe(report)
        for warning in (*remarks(source.data), *overlap_warnings(report)):
            yield "warning", warning


def _columns(options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The columns that are read, and the other columns of the file."""
    from cse.data.reading.sources import column_names

    asked = [options[name] for name in ("column", "score_column", "weight_column", "label_column") if name in options]
    asked += [n for name in ("columns", "relevance_columns", "teacher_columns") for n in options.get(name) or ()]
    used = [str(name) for name in asked if name is not None]
    there = column_names(str(options["path"]), str(options.get("split", "train"))) if "path" in options else []
    if there:
        others = [name for name in there if name not in used]
        yield "columns", f"{', '.join(used)}; not used: {', '.join(others)[:200] or 'none'}"


def describe(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """A report of `cse.data.checks.examine` as lines."""
    texts, words = report["texts"], report["words"]
    distinct = f"{texts['distinct']:,} distinct, {texts['distinct_normalized']:,} if case and punctuation are ignored"
    yield "texts", f"{texts['all']:,}; {distinct}; {texts['same_in_row']:,} rows have the same text twice"
    yield from _histogram("words", words)
    if "tokens" in report:
        tokens = report["tokens"]
        yield from _histogram("tokens", tokens)
        yield "cut", f"{tokens['truncated']:,} at {tokens['max_length']} tokens ({tokens['truncated_share']:.1%})"
    scripts = ", ".join(f"{name.capitalize()} {share:.0%}" for name, share in report["scripts"].items())
    languages = ", ".join(f"{name} {share:.0%}" for name, share in report["languages"].items())
    guessed = f"guessed on {report['languages_sample']:,} texts"
    yield "language", f"{languages or 'too short to tell'}   letters: {scripts or 'none'} ({guessed})"
    yield from _overlap(report["overlap"])


def _histogram(name: str, figures: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield name, "mean {mean}, median {median}, 95% up to {p95}, longest {max}".format(**figures)
    bars = figures["histogram"]
    for reach, count in bars.items():
        yield "", f"{reach:>8s} {'#' * max(1, round(WIDTH * count / max(bars.values())))} {count:,}"


def _overlap(overlap: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """One line for each evaluation set that shares texts with the data, and one line for all others."""
    if not overlap:
        yield "overlap", "not checked without an evaluation set: give the recipe an evaluator, or set CSE_DATA"
    clean = {name: each["texts"] for name, each in overlap.items() if not each["shared_texts"]}
    for name, each in overlap.items():
        if name not in clean:
            pairs = f", {each['shared_pairs']:,} of {each['pairs']:,} pairs" if each["pairs"] else ""
            shown = f"   such as {each['examples'][0][:60]!r}" if each["examples"] else ""
            yield "overlap", f"{name}: {each['shared_texts']:,} of {each['texts']:,} texts{pairs}{shown}"
    if clean:
        yield "overlap", f"none with {', '.join(clean)} ({sum(clean.values()):,} texts)"
