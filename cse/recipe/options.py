"""The options of a recipe that a user types, as changes of its content."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cse.errors import UserError
from cse.recipe.files import Loader, mapping, merge
from cse.recipe.schema import CLASS_PATH, Kept, Word, is_installed

SHORTHANDS = {"encoder": ("encoder.backbone", "MODEL"), "data": ("data.path", "FILE")}


@dataclass(frozen=True, slots=True)
class Options:
    """Hold what a command line gives: options and their values, in order, and the modules of `--trusted-modules`."""

    values: list[tuple[str, Word]]
    trusted: list[str]

    def last(self, option: str) -> str | None:
        """The value that counts of an option; None if it is not given."""
        return next((value for name, value in reversed(self.values) if name == option), None)

    def modules(self) -> set[str]:
        """The modules that the user trusts: those of classes that the options name, too, since the user typed them."""
        return {*self.trusted, *modules_named([_flow(value) or value for _, value in self.values])}


def read(words: Sequence[str]) -> Options:
    """Split words such as `--seed 5` and `--trainer.max_steps=50` into options and values.

    `--encoder MODEL` is `--encoder.backbone=MODEL`, and `--data FILE` is `--data.path=FILE`; a class, such as
    `--encoder=package.module.MyEncoder`, and a mapping are left.
    """
    values, trusted, rest = list[tuple[str, Word]](), list[str](), list(words)
    while rest:
        word, equals, value = rest.pop(0).partition("=")
        name = word.removeprefix("--").replace(".init_args", "")
        longer, what = SHORTHANDS.get(name, (name, "VALUE"))
        if not word.startswith("--"):
            raise UserError(f"{word} is not an option\nfix: write --NAME=VALUE")
        if word == "--trusted-modules":
            what = "MODULE,MODULE"
        if not equals and rest and not rest[0].startswith("--"):
            value, equals = rest.pop(0), "="
        if name.endswith(".help"):
            equals = "="
        if not equals or (word == "--trusted-modules" and not value):
            raise UserError(f"{word} needs a value\nfix: {word} {what}")
        if word == "--trusted-modules":
            trusted += (modules := listed(value))
            if absent := [module for module in modules if not is_installed(module)]:
                raise UserError(
                    f"{word} is {absent[0]}, and there is no such module\nfix: name one that can be imported"
                )
        else:
            values.append((name if names_class(value) else longer, Word(value)))
    return Options(values, trusted)


def apply(content: Mapping[str, Any], options: Options, known: Collection[str]) -> dict[str, Any]:
    """Change a recipe's content by options whose first names are `known`; of two values of one, the last counts."""
    changed = dict(content)
    for name, value in options.values:
        first, *path = name.split(".")
        if path[-1:] == ["help"]:
            continue
        if first == "config":
            raise UserError("option --config is unknown\nfix: give the file in the recipe's place: cse train FILE.yaml")
        if first not in known:
            near = difflib.get_close_matches(first, [*known, "run-dir", "resume", "trusted-modules"], n=1, cutoff=0.6)
            fix = f"did you mean {near[0]}?" if near else f"it takes {', '.join(known)}"
            raise UserError(f"option --{name} is unknown\nfix: {fix}")
        if name == "trainer" and isinstance(given := _flow(value), Mapping):
            changed[first] = merge(mapping(changed.get(first)), given)
        else:
            changed[first] = _put(changed.get(first), path, value)
    return changed


def _put(node: Any, path: Sequence[str], value: Word) -> Any:
    """A node of a recipe in which the option at a path has another value."""
    node = node.value if isinstance(node, Kept) else node
    if not path or path == ["class_path"]:
        return _replaced(node, value)
    if isinstance(node, str) and CLASS_PATH.fullmatch(node):
        node = {"class_path": node}
    node, (key, *deeper) = dict(mapping(node)), path
    if {"class_path", "init_args"} & node.keys():
        inner = mapping(node.get("init_args"))
        return {**node, "init_args": {**inner, key: _put(inner.get(key), deeper, value)}}
    return {**node, key: _put(node.get(key), deeper, value)}


def _replaced(node: Any, value: Word) -> Any:
    """Give the value of a node after it is given another. Another class keeps those arguments that it has too."""
    given = _flow(value)
    named = mapping(given) if given is not None else {"class_path": value} if CLASS_PATH.fullmatch(value) else {}
    if "class_path" not in mapping(node) or not named:
        return value
    if not {"class_path", "init_args"} & named.keys():
        named = {"init_args": named}
    arguments = mapping(node.get("init_args"))
    if named.get("class_path", node["class_path"]) != node["class_path"]:
        arguments = {name: Kept(each) for name, each in arguments.items()}
    return {**node, **named, "init_args": {**arguments, **mapping(named.get("init_args"))}}


def _flow(value: str) -> list[Any] | dict[str, Any] | None:
    """The list or mapping that a word writes as YAML or JSON; None if it writes neither."""
    try:
        found = yaml.load(value, Loader) if value[:1] in {"[", "{"} else None
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    return found if isinstance(found, list | dict) else None


def names_class(value: str) -> bool:
    """Tell whether a value is a mapping or a class's dotted name, not a model or a file; nothing is imported."""
    dotted = any(_class_paths(value)) and value.rpartition(".")[2][0].isupper()
    return value.lstrip().startswith("{") or (dotted and is_installed(value.rpartition(".")[0]))


def modules_named(value: Any) -> set[str]:
    """The modules of all classes that are named within a value."""
    return {name.rpartition(".")[0] for name in _class_paths(value)}


def listed(names: str) -> list[str]:
    """The names in a text, between commas."""
    return [name.strip() for name in names.split(",") if name.strip()]


def _class_paths(value: Any) -> Iterator[str]:
    """Every text within a value that may be the path of a class or a function."""
    if isinstance(value, str) and CLASS_PATH.fullmatch(value) and not Path(value).exists():
        yield value
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    for item in items:
        yield from _class_paths(item)
