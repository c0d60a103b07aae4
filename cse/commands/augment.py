"""cse augment: show the views that a recipe, or each augmentation, makes of texts."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cse.console import quiet, say
from cse.errors import UserError

if TYPE_CHECKING:
    from cse.batch import Example
    from cse.interfaces import Augmentation, Collator

HELP = "show the views that a recipe makes of its texts, or what each augmentation does to the texts of a file"
TAKES_OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    parser.epilog = "Options of the recipe are given as --collator.views=3 or --seed=43."
    add("--show", metavar="RECIPE", help="show the views of this recipe, for its own data or --data")
    add("--data", metavar="FILE", help="texts to show; without --show, each augmentation is applied")
    add("--column", default="text", help="column of a table (default: %(default)s)")
    add("--rows", type=int, default=5, help="number of texts to show (default: %(default)s)")
    add("--epoch", type=int, default=0, help="epoch whose views are shown (default: %(default)s, the first)")


def run(arguments: argparse.Namespace, overrides: list[str]) -> int:
    quiet()
    a = arguments
    if a.show is None and a.data is None:
        raise UserError("cse augment needs a recipe or texts\nfix: give --show RECIPE or --data FILE")
    if a.rows < 1:
        raise UserError(f"--rows is {a.rows}\nfix: give an integer >= 1")
    if a.show is None:
        if overrides:
            raise UserError(
                f"{' '.join(overrides)} is an option of a recipe, but no recipe is given\nfix: add --show RECIPE"
            )
        return _show_each(_read(a.data, a.column, a.rows))
    return _show_recipe(a, overrides)


def _read(path: str, column: str, rows: int) -> Sequence[Example]:
    from cse.data.datasets import Texts

    return Texts(path, column=column, limit=max(2, rows))[:rows]


def _show_recipe(a: argparse.Namespace, overrides: list[str]) -> int:
    from cse.recipe import load
    from cse.training.sources import sources
    from cse.training.start import assemble

    run = assemble(load(a.show, overrides), Path("unwritten"))
    for name, source in ({"": run} if a.data is not None else sources(run)).items():
        if name:
            say("source", name)
        examples = source.data[: a.rows] if a.data is None else _read(a.data, a.column, a.rows)
        views = views_of(source.collator, examples, epoch=a.epoch, seed=run.seed)
        for example, texts in zip(examples, views, strict=True):
            say(f"row {example.row_id}", example.texts[0])
            for number, text in enumerate(texts):
                say(f"  view {number}", text)
    return 0


def views_of(collator: Collator, examples: Sequence[Example], *, epoch: int, seed: int) -> list[list[str]]:
    """The texts of every view, row by row, as they are before a collator masks tokens or puts them into templates."""
    from cse.data.views.around import Around
    from cse.data.views.texts import TextViews

    while isinstance(collator, Around):
        collator = collator.views
    if not isinstance(collator, TextViews):
        raise UserError(
            f"collator {type(collator).__name__} does not tell which texts it makes\n"
            "fix: give a recipe whose collator is, or wraps, TextViews"
        )
    return collator.texts(examples, epoch=epoch, seed=seed)


def _show_each(examples: Sequence[Example]) -> int:
    from cse.augment import render
    from cse.seeding import python_rng

    for augmentation in each():
        name = type(augmentation).__name__
        rngs = [python_rng(0, "augment", example.row_id) for example in examples]
        try:
            texts = render([augmentation], [example.texts[0] for example in examples], rngs)
        except UserError as error:
            say(name, f"cannot be used: {str(error).splitlines()[0]}")
            continue
        say(name, "")
        for example, text in zip(examples, texts, strict=True):
            say("  text", example.texts[0])
            say("  view", text)
    return 0


def each() -> list[Augmentation]:
    """One augmentation of every kind, with its default settings."""
    from cse import augment as a

    words = [a.WordDeletion(probability=0.3), a.WordReordering(), a.WordRepetition(), a.CharacterNoise()]
    spans = [a.SpanDeletion(), a.SpanReordering(), a.Crop()]
    return [*words, *spans, a.Negation(), a.SynonymSubstitution(), a.MaskedLMSubstitution()]
