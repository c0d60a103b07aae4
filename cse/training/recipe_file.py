"""What a recipe from elsewhere may do: hold a mapping of bounded size, and name classes of trusted modules only."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from cse.errors import UserError

MAX_VALUES = 10_000  # of a recipe with its anchors expanded; the largest of the package has about 100
MAX_DEPTH = 50
MAPPINGS = {  # with an example of each
    "trainer": "{max_steps: 100}",
    "expect": "{tasks: STSB-dev, low: 80.1, high: 80.9}",
    "for": "{causal: {...}}",
    "objects": "{}",
}
COMPONENTS = ("data", "collator", "encoder", "objective", "evaluator", "sampler", "negatives")
_CLASS_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def parse(path: Path) -> dict[str, Any]:
    """The mapping that a recipe's file holds, its parent not merged.

    Raises:
        UserError: The file is not YAML, is not a mapping, or is too large or deep once its anchors are expanded.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader) or {}
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"recipe {path}: cannot be read: {reason}\nfix: correct the YAML at that place") from error
    if not isinstance(content, dict):
        raise UserError(f"recipe {path}: is not a mapping of options\nfix: write `option: value` at its top level")
    _require_bounded(content, path)
    require_shape(content, f"recipe {path}")
    return content


def is_yaml(text: str) -> bool:
    """Tell whether YAML reads a text as a mapping or a list, and not as a text or a number."""
    try:
        return isinstance(yaml.safe_load(text), dict | list)
    except (yaml.YAMLError, RecursionError):
        return False


class _Loader(yaml.SafeLoader):
    """YAML as `yaml.safe_load` reads it, but a key that is given twice is an error: the last would win unseen."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """A mapping of different keys."""
        keys = [key.value for key, _ in node.value]
        for key, _ in node.value:
            if keys.count(key.value) > 1:
                problem = f"{key.value!r} is given twice, first at line {key.start_mark.line + 1}"
                raise yaml.constructor.ConstructorError(problem=problem)
        return super().construct_mapping(node, deep)


def require_shape(content: Mapping[str, Any], where: str) -> None:
    """Check that the parts of a recipe are mappings, and its expected scores numbers.

    Raises:
        UserError: One is something else.
    """
    parts = {name: content[name] for name in MAPPINGS if name in content}
    parts |= {f"for: {name}": section for name, section in (_mapping(content.get("for")) or {}).items()}
    for name, value in parts.items():
        if not isinstance(value, Mapping):
            example = MAPPINGS.get(name, "{trainer: {...}}")
            raise UserError(f"{where}: {name} is {value!r}\nfix: write a mapping, such as {example}")
    if "config" in content:
        raise UserError(f"{where}: option config is unknown\nfix: name a parent instead: extends: FILE.yaml")
    for name in COMPONENTS:
        text = content.get(name)
        if isinstance(text, str) and (not _CLASS_PATH.fullmatch(text) or text.endswith((".yaml", ".yml"))):
            raise UserError(f"{where}: {name} is {text!r}\nfix: write class_path and init_args below it")
        if isinstance(content.get(name), int | float | list):
            raise UserError(f"{where}: {name} is {content[name]!r}\nfix: write class_path and init_args below it")
        arguments = (_mapping(content.get(name)) or {}).get("init_args")
        if arguments is not None and not isinstance(arguments, Mapping):
            example = f"{name}: {{init_args: {{...}}}}"
            raise UserError(f"{where}: {name}.init_args is {arguments!r}\nfix: write a mapping, such as {example}")
    for name in ("low", "high"):
        bound = content.get("expect", {}).get(name, 0.0)
        if isinstance(bound, bool) or not isinstance(bound, int | float) or not math.isfinite(bound):
            raise UserError(f"{where}: expect.{name} is {bound!r}\nfix: write a score, such as 80.1")


def _mapping(value: Any) -> Mapping[str, Any] | None:
    return value if isinstance(value, Mapping) else None


def _require_bounded(content: Any, path: Path) -> None:
    seen = 0
    pending: list[tuple[Any, int]] = [(content, 0)]
    while pending:
        value, depth = pending.pop()
        seen += 1
        if seen > MAX_VALUES or depth > MAX_DEPTH:
            raise UserError(
                f"recipe {path}: holds more than {MAX_VALUES:,} values or {MAX_DEPTH} levels once its anchors are "
                "expanded\nfix: remove anchors that contain themselves or repeat each other"
            )
        items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        pending.extend((item, depth + 1) for item in items)


def require_trusted(
    content: Mapping[str, Any], path: Path, options: Sequence[str], trusted: Collection[str]
) -> set[str]:
    """Check that every class that a recipe names is in a trusted module, before any of them is imported.

    A recipe is code: naming a class imports its module. Trusted are this package, what `trusted` and the environment
    variable CSE_TRUSTED_MODULES name, and the modules of classes in the options, since the user typed them.

    Args:
        content: What the recipe's file holds, its parents merged.
        path: The file.
        options: The user's options.
        trusted: Names of modules; the modules in them are trusted, too.

    Returns:
        All trusted modules.

    Raises:
        UserError: A class is in another module.
    """
    typed = modules_named([_value(option) for option in options])
    allowed = {"cse", *trusted, *_listed(os.environ.get("CSE_TRUSTED_MODULES", "")), *typed}
    for name in _class_paths(content):
        module = name.rpartition(".")[0]
        if not any(module == known or module.startswith(f"{known}.") for known in allowed) and _exists(module):
            raise UserError(untrusted(f"recipe {path}: names {name}", module))
    return allowed


def untrusted(what: str, module: str) -> str:
    """Say that a recipe names a class of a module that is not trusted."""
    return (
        f"{what}, and reading the recipe would run the code of that module\n"
        f"fix: read that module; if you trust it, --trusted-modules={module.partition('.')[0]}"
    )


def trusted_modules(options: Sequence[str]) -> tuple[list[str], list[str]]:
    """Take `--trusted-modules a,b` out of the options of a command.

    Returns:
        The other options, and the names of the modules.

    Raises:
        UserError: The value is missing.
    """
    others: list[str] = []
    modules: list[str] = []
    rest = list(options)
    while rest:
        option, equals, value = rest.pop(0).partition("=")
        if option != "--trusted-modules":
            others.append(option + equals + value)
            continue
        value = value or (rest.pop(0) if rest and not rest[0].startswith("--") else "")
        if not value:
            raise UserError("--trusted-modules needs a value\nfix: --trusted-modules MODULE,MODULE")
        modules += _listed(value)
    return others, modules


def names_class(value: str) -> bool:
    """Whether a value is a mapping or a class's dotted name, and not a model or a file; nothing is imported for it."""
    dotted = any(_class_paths(value)) and value.rpartition(".")[2][0].isupper() and _exists(value.rpartition(".")[0])
    return value.lstrip().startswith("{") or dotted


def modules_named(value: Any) -> list[str]:
    """The modules of all classes that are named within a value."""
    return sorted({name.rpartition(".")[0] for name in _class_paths(value)})


def _listed(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


def _value(option: str) -> Any:
    """The value of an option such as `--objective={class_path: mine.Loss}`, or a word that is a value itself."""
    text = option.partition("=")[2] if option.startswith("--") else option
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _class_paths(value: Any) -> Iterator[str]:
    """Every text within a value that may be the path of a class or a function."""
    if isinstance(value, str) and _CLASS_PATH.fullmatch(value) and not Path(value).exists():
        yield value
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    for item in items:
        yield from _class_paths(item)


def _exists(module: str) -> bool:
    """Whether the package that holds a module can be imported; looking it up runs no code of it."""
    try:
        return find_spec(module.partition(".")[0]) is not None
    except (ImportError, ValueError):
        return False
