"""cse recipe: list the recipes of this version, show one, or copy one as the beginning of your own."""

from __future__ import annotations

import argparse
from itertools import takewhile
from pathlib import Path
from typing import Any

from cse.errors import UserError

HELP = "list the recipes, show one, or copy one to a file of your own"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|show|copy")
    actions.add_parser("list", help="name, paper, data and cost of every recipe, and when to choose it")
    show = actions.add_parser("show", help="print a recipe with its parents merged into it")
    show.add_argument("name", help="a name from `cse recipe list`, or a YAML file")
    show.add_argument("--defaults", action="store_true", help="add every option that the recipe leaves at its default")
    copy = actions.add_parser("copy", help="write a recipe and its parents as one file that trains the same")
    copy.add_argument("name", help="a name from `cse recipe list`, or a YAML file")
    copy.add_argument("file", nargs="?", type=Path, help="the file to write; default: NAME.yaml in this folder")
    copy.add_argument("--force", action="store_true", help="overwrite the file if it exists")


def run(arguments: argparse.Namespace, _: list[str]) -> int:
    from cse import recipe

    if arguments.action == "list":
        for name in recipe.names():
            print(_entry(name))  # noqa: T201
    elif arguments.action == "show":
        shown = recipe.load(arguments.name).text if arguments.defaults else merged(recipe.find(arguments.name))
        print(shown, end="")  # noqa: T201
    else:
        path = recipe.find(arguments.name)
        _copy(path, arguments.file or Path(path.name), overwrite=arguments.force)
    return 0


def comments(path: Path) -> str:
    """The comment lines that a recipe opens with."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return "".join(takewhile(lambda line: line.startswith("#"), lines))


def merged(path: Path) -> str:
    """A recipe's header and options in one text, with its parents merged into it."""
    import yaml

    from cse.recipe import read

    # The width keeps a long template on one line.
    return comments(path) + yaml.safe_dump(read(path), sort_keys=False, allow_unicode=True, width=10_000)


def _copy(path: Path, out: Path, *, overwrite: bool) -> None:
    from cse.console import say
    from cse.environment import cse_version
    from cse.files import check_writable, write_text

    if out.suffix not in {".yaml", ".yml"}:
        raise UserError(
            f"{out} does not end in .yaml, by which `cse train` recognizes a file\nfix: give a name that ends in .yaml"
        )
    check_writable(out, "FILE")
    if out.exists() and not overwrite:
        raise UserError(f"{out} exists\nfix: give another file, or --force to overwrite it")
    note = f"# copied     from {path.stem} of cse {cse_version()}, its parents merged; train it: cse train {out}\n"
    write_text(out, note + merged(path))
    say("wrote", f"{out}   train it: cse train {out}")


def _entry(name: str) -> str:
    """One recipe in the list: its name, and the fields of its header below it."""
    from cse.recipe import find, header, read

    path = find(name)
    about = {"title": "", "paper": "", "cost": "", "choose": "", **header(path)}
    about["data"] = _data(read(path))
    fields = {name: about[name] for name in ("title", "paper", "data", "cost", "choose")}
    return "\n".join([name, *(f"  {key:6s} {text or '-'}" for key, text in fields.items())])


def _data(options: dict[str, Any]) -> str:
    """The data class that a recipe trains on, and the path of the rows, or those of the sources of a mixture."""
    data = options.get("data", {})
    arguments = data.get("init_args", {})
    paths = [source["data"]["init_args"].get("path", "") for source in arguments.get("sources", {}).values()]
    return f"{data.get('class_path', '').rpartition('.')[2]} {arguments.get('path', '') or ','.join(paths)}"
