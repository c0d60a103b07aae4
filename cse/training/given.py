"""What a caller in Python gives in place of a recipe's parts and options, in the terms of the parser of recipes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cse.errors import UserError
from cse.recipe import bases

SHORT = {"data": "data.path", "encoder": "encoder.backbone"}  # the option that a string given for a part sets


def resolve(
    recipe: str | Path | Mapping[str, Any] | None, given: Mapping[str, Any]
) -> tuple[str | dict[str, Any], list[str], dict[str, Any]]:
    """The recipe, and the options and parts that change it, as `cse.recipe.load` takes them.

    Args:
        recipe: A name, a path, the content of such a file, in which parts may be objects, or None.
        given: For each part a string, a mapping as a recipe has it, an object, or None to keep the recipe's; for `data`
            also rows in memory.

    Raises:
        UserError: A part is of a wrong type.
    """
    content = dict(recipe) if isinstance(recipe, Mapping) else {}
    parts = {part: content.pop(part) for part in bases() if is_object(part, content.get(part))}
    options: list[str] = []
    for part, value in given.items():
        if value is None:
            continue
        if isinstance(value, str | Path):
            options.append(f"--{SHORT.get(part, part)}={value}")
        elif is_object(part, value) or (isinstance(value, Mapping) and {"class_path", "init_args"} & set(value)):
            parts[part] = value
        elif part == "data":
            parts["rows"] = value
        else:
            raise UserError(
                f"{part} is {str(value)[:60]!r}, of type {type(value).__name__}\n"
                f"fix: give a {bases()[part].__name__} object, the path of its class, or a mapping with class_path and "
                "init_args"
            )
    named = content if recipe is None or isinstance(recipe, Mapping) else str(recipe)
    return named, options, parts


def is_object(part: str, value: object) -> bool:
    """Whether a value is a part itself."""
    return part in bases() and isinstance(value, bases()[part])


def as_options(overrides: Mapping[str, Any] | Sequence[str], parts: Mapping[str, Any]) -> list[str]:
    """Overrides as options of the command line.

    Args:
        overrides: Options as they are, or values by name, such as `{"trainer.max_steps": 50}` or
            `{"trainer": {"max_steps": 50}}`.
        parts: The parts that are given, of which no option can change those that are objects.

    Raises:
        UserError: A value cannot be an option, or an option belongs to an object.
    """
    if isinstance(overrides, str) or not isinstance(overrides, Mapping | Sequence):
        raise UserError(f"overrides is {overrides!r}\nfix: give a list of options, or a dict of values by name")
    if isinstance(overrides, Mapping):
        listed = [f"--{name}={_text(name, value)}" for name, value in _flat(overrides)]
    else:
        listed = list(overrides)
    for option in listed:
        if not isinstance(option, str):
            raise UserError(
                f"overrides has {option!r}\nfix: give options as on the command line: '--trainer.max_steps=50'"
            )
        part = option.removeprefix("--").partition("=")[0].partition(".")[0]
        if is_object(part, parts.get(part)):
            raise UserError(
                f"option {option} cannot change the {part}, which is an object\n"
                f"fix: give the object other arguments, or {part} as a mapping with class_path and init_args"
            )
    return listed


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _text(name: str, value: object) -> str:
    try:
        return str(value) if isinstance(value, str | Path) else json.dumps(value)
    except TypeError:
        raise UserError(
            f"overrides: {name} is of type {type(value).__name__}\n"
            f"fix: give a number, a text, a list, or {name.partition('.')[0]}=... as an object"
        ) from None
