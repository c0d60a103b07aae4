"""Objects and values of Python in place of a recipe's parts and options, and how a recipe writes them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from cse.errors import UserError
from cse.recipe.files import mapping, merge
from cse.recipe.options import SHORTHANDS
from cse.recipe.schema import bases, is_plain

ROWS = "rows.parquet"  # in a run's folder: the rows that the run was given in memory


def require_objects(named: Mapping[str, str], objects: Mapping[str, Any], path: Path | None) -> None:
    """Raise if a run was made with objects that no recipe can name, and they are not given again."""
    for part, what in named.items():
        if part not in objects:
            raise UserError(
                f"recipe {path}: the {part} of the run was an object in Python, {what}, which a recipe cannot name\n"
                f"fix: cse.resume({str(path.parent if path else '...')!r}, {part}=...) in Python, with the same object"
            )


def insert_parts(content: dict[str, Any], parts: Mapping[str, Any], path: Path | None) -> dict[str, str]:
    """Put mappings and objects into a recipe's content; returns the objects that cannot be written, in words."""
    unwritten = {}
    for part, made in parts.items():
        if part == "rows":
            continue
        if isinstance(made, Mapping):
            content[part] = merge(mapping(content.get(part)), made)
            continue
        inserted = _data_written(made, ROWS) if getattr(made, "in_memory", False) else written(made)
        content.pop(part, None)
        if inserted is not None:
            content[part] = inserted
        else:
            unwritten[part] = made.describe() if part == "objective" else type(made).__name__
    data = content.get("data") or {}
    data = dict(data) if isinstance(data, Mapping) else {"class_path": data}  # a class alone may stand for a part
    arguments = mapping(data.get("init_args"))
    if "rows" in parts and not data.get("class_path"):
        raise UserError("data: no recipe says which class reads the rows\nfix: give an object, such as cse.Texts(rows)")
    if "rows" in parts:
        content["data"] = {**data, "init_args": {**arguments, "path": ROWS}}
    elif path is not None and arguments:
        content["data"] = _data_found(data, path.parent / ROWS)
    return unwritten


def _data_written(data: Any, file: str) -> dict[str, Any] | None:
    """A data set with rows in memory, as a recipe writes it once the rows are saved as `file`; see `written`."""
    if not data.in_memory:
        return written(data)
    if not hasattr(data, "sources"):
        return written(data, path=file)
    from cse.data.mixture import source_file

    files = {name: source_file(Path(file), name).name for name in data.sources}
    known = {name: _data_written(source.data, files[name]) for name, source in data.sources.items()}
    sources = {name: written(source, data=known[name]) for name, source in data.sources.items()}
    if None in known.values() or None in sources.values():
        return None
    return written(data, sources={name: source["init_args"] for name, source in sources.items() if source})


def _data_found(data: dict[str, Any], saved: Path) -> dict[str, Any]:
    """The data of a recipe, with the saved rows wherever the run's folder was moved to."""
    arguments = dict(data.get("init_args") or {})
    if arguments.get("path") == saved.name and saved.is_file():
        arguments["path"] = str(saved)
    elif isinstance(arguments.get("sources"), Mapping):
        from cse.data.mixture import source_file

        arguments["sources"] = {
            name: {**source, "data": _data_found(source["data"], source_file(saved, str(name)))}
            if isinstance(source, Mapping) and isinstance(source.get("data"), Mapping)
            else source
            for name, source in arguments["sources"].items()
        }
    return {**data, "init_args": arguments}


def written(part: object, **known: Any) -> dict[str, Any] | None:
    """An object as a recipe writes it, `class_path` and `init_args`; None if it cannot be written.

    It can if a module holds its class, and if the object keeps the arguments of its constructor as attributes of the
    same names, which are numbers, texts, lists, or objects of which the same is true. Arguments that are `known` are
    written in place of the attributes.
    """
    kind = type(part)
    module, package = kind.__module__, kind.__module__.rpartition(".")[0]
    if module in {"__main__", "builtins"} or "<locals>" in kind.__qualname__ or module.startswith(("torch", "numpy")):
        return None
    arguments = {}
    for name, parameter in inspect.signature(kind).parameters.items():
        if parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD} or not hasattr(part, name):
            return None
        value = known[name] if name in known else _value_written(getattr(part, name))
        if value is _UNWRITTEN:
            return None
        arguments[name] = value
    public = package and getattr(import_module(package), kind.__name__, None) is kind  # cse.data.Texts is promised
    return {"class_path": f"{package if public else module}.{kind.__qualname__}", "init_args": arguments}


_UNWRITTEN = object()


def _value_written(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple) or type(value).__name__ == "ModuleList":
        items = [_value_written(item) for item in value]
        return _UNWRITTEN if _UNWRITTEN in items else items
    if isinstance(value, Mapping):
        named = {str(key): _value_written(item) for key, item in value.items()}
        return _UNWRITTEN if _UNWRITTEN in named.values() else named
    found = written(value)
    return _UNWRITTEN if found is None else found["init_args"] if is_plain(type(value)) else found


def resolve(
    recipe: str | Path | Mapping[str, Any] | None, given: Mapping[str, Any]
) -> tuple[str | dict[str, Any], list[str], dict[str, Any]]:
    """The recipe, and the options and parts that change it, as `cse.recipe.load` takes them.

    Args:
        recipe: A name, a path, the content of such a file, in which parts may be objects, or None.
        given: For each part a string, a mapping as a recipe has it, an object, or None to keep the recipe's; for `data`
            also rows in memory.
    """
    content = dict(recipe) if isinstance(recipe, Mapping) else {}
    parts = {part: content.pop(part) for part in bases() if is_object(part, content.get(part))}
    options: list[str] = []
    for part, value in given.items():
        if value is None:
            continue
        if isinstance(value, str | Path):
            options.append(f"--{SHORTHANDS.get(part, (part,))[0]}={value}")
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
    """Tell whether a value is a part itself."""
    return part in bases() and isinstance(value, bases()[part])


def as_options(overrides: Mapping[str, Any] | Sequence[str], parts: Mapping[str, Any]) -> list[str]:
    """Overrides as options of the command line.

    Args:
        overrides: Options as they are, or values by name, such as `{"trainer.max_steps": 50}` or
            `{"trainer": {"max_steps": 50}}`.
        parts: The parts that are given, of which no option can change those that are objects.
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
