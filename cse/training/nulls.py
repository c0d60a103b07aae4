"""Options that are null below an argument of a part: the config library would read them as the text None.

It hands a nested option on as `f"--{name}={value}"`, by which time `null` is Python's None. Such options are therefore
merged into the recipe's content, where null stays null. `--data.path=null` and `--trainer.clip=null` are not nested.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import yaml


def insert_nulls(
    content: dict[str, Any], overrides: Sequence[str], components: Collection[str]
) -> tuple[dict[str, Any], list[str]]:
    """Merge the nested options that are null into a recipe's content.

    Args:
        content: The recipe's mapping.
        overrides: The options of the user.
        components: The names of the parts that have a class.

    Returns:
        The mapping with them, and the other options. Of two values of one option, the last counts.
    """
    rest, others = list(overrides), list[tuple[str, str, list[str]]]()  # name, value, words
    while rest:
        words = [rest.pop(0)]
        option, equals, value = words[0].partition("=")
        if not equals and rest and not rest[0].startswith("--"):
            words.append(value := rest.pop(0))
        name = option.removeprefix("--").replace(".init_args", "")
        part, *path = name.split(".")
        if part not in components or len(path) < 2 or not _is_null(value):
            others.append((name, value, words))
            continue
        others = [other for other in others if other[0] != name]
        classes = {name: value for name, value, _ in others}
        content = {**content, part: _with_null(content.get(part) or {}, path, part, classes)}
    return content, [word for _, _, words in others for word in words]


def _with_null(node: Any, path: Sequence[str], where: str, classes: Mapping[str, str]) -> Any:
    """A part or a mapping of options in which the option at a path is null.

    Args:
        node: The part, or the mapping.
        path: The names that lead from it to the option.
        where: The name of the option that holds it, whose value may be another class.
        classes: The values of options by name.
    """
    node = {"class_path": node} if isinstance(node, str) else dict(node) if isinstance(node, Mapping) else {}
    given = classes.get(where, node.get("class_path"))
    if given is not None and given != node.get("class_path"):
        node = {"class_path": given}  # the arguments were those of another class
    inside = dict(node.get("init_args") or {}) if "class_path" in node else node
    key, *deeper = path
    inside[key] = _with_null(inside.get(key) or {}, deeper, f"{where}.{key}", classes) if deeper else None
    return {**node, "init_args": inside} if "class_path" in node else inside


def _is_null(value: str) -> bool:
    try:
        return bool(value) and yaml.safe_load(value) is None
    except yaml.YAMLError:
        return False
