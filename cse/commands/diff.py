"""cse diff: show which words make two texts differ."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from cse.commands import call, declare, two_texts

if TYPE_CHECKING:
    from cse.inference.diff import Difference, Method

VERB = "cse.inference.diff:diff"
HELP = "show which words make two texts differ, or the texts of two files line by line"
EPILOG = (
    "On a terminal, words are colored by how much they differ; elsewhere each word is a line with its score, from 0 to "
    "1. The scores of delete lie near 0.5, and compare words of one pair. mask needs a model with a masked-LM head."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    declare(parser, VERB)
    add = parser.add_argument
    add("--html", type=Path, metavar="FILE", help="write a page with colored words")
    add("--json", action="store_true", help="print a JSON object for each pair")
    add("--column", default="text", help="column of a table (default: %(default)s)")


def run(arguments: argparse.Namespace, _: list[str]) -> int:
    from cse.console import quiet, say
    from cse.files import check_writable, write_text
    from cse.inference.diff import to_html

    a = arguments
    quiet()
    if a.html is not None:
        check_writable(a.html, "--html")
    first, second = two_texts(a.a, a.b, a.column, by_line="")[1]
    found = call(VERB, a, a=first, b=second)
    if a.html is not None:
        write_text(a.html, to_html(found, a.method))
        say("wrote", str(a.html))
    elif a.json:
        for difference in found:
            print(json.dumps({"method": a.method, **asdict(difference)}))  # noqa: T201
    else:
        _show(found, a.method)
    return 0


def _show(found: Sequence[Difference], method: Method) -> None:
    """Colored texts on a terminal that has colors, tab-separated lines elsewhere."""
    from rich.console import Console
    from rich.text import Text

    from cse.inference.diff import strengths

    console = Console(highlight=False)
    if not sys.stdout.isatty() or console.no_color or console.color_system is None:
        print("pair\ttext\tscore\tword")  # noqa: T201
        for number, difference in enumerate(found, 1):
            for side, words in (("a", difference.words_a), ("b", difference.words_b)):
                for word in words:
                    print(f"{number}\t{side}\t{word.score:.4f}\t{' '.join(word.text.split())}")  # noqa: T201
        return
    for difference in found:
        strong = strengths(difference, method)
        first, second = (("a", difference.a, difference.words_a), ("b", difference.b, difference.words_b))
        for (name, text, words), shades in ((first, strong[0]), (second, strong[1])):
            line = Text(text)
            for word, strength in zip(words, shades, strict=True):
                if strength >= 0.05:
                    faint = round(235 - 195 * strength)
                    line.stylize(f"black on rgb(255,{faint},{faint})", word.start, word.end)
            console.print(f"{name}  ", end="")
            console.print(line, soft_wrap=True)
