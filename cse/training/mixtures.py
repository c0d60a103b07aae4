"""A mixture as a recipe writes it: what is wrong with a source is said with the name of the source."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cse.errors import UserError

OPTION = re.compile(r"--data\.(?:init_args\.)?sources\.([^.=]+)")


def sources_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """The sources of a recipe's data, by name; none if the data is not a mixture.

    Raises:
        UserError: The sources are not a mapping of options by name.
    """
    data = content.get("data")
    arguments = data.get("init_args") if isinstance(data, Mapping) else None
    found = arguments.get("sources") if isinstance(arguments, Mapping) else None
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise UserError(
            f"data.sources is a {type(found).__name__}\nfix: give every source a name: {{nli: {{data: ...}}, qa: ...}}"
        )
    return dict(found)


def require_named(content: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Check what the parser's messages would not explain.

    Raises:
        UserError: A source is not a mapping of options, or an option of the command line names no source.
    """
    sources = sources_of(content)
    for name, source in sources.items():
        if not isinstance(source, Mapping) or "class_path" in source:
            said = source.get("class_path") if isinstance(source, Mapping) else source
            raise UserError(
                f"data.sources.{name} is {said!r}\n"
                "fix: write options of the source: {data: {class_path: ..., init_args: ...}}"
            )
    given = [(found[1], word[found.end() :]) for word in overrides if (found := OPTION.match(word))]
    fresh = {name for name, option in given if option.startswith(".data")}
    for name in {name for name, _ in given} - fresh - set(sources):
        near = difflib.get_close_matches(name, sources, n=1, cutoff=0.4)
        fix = f"did you mean {near[0]}?" if near else f"give data.sources.{name}.data, or one of {', '.join(sources)}"
        raise UserError(f"data.sources.{name}: the recipe has no source of this name\nfix: {fix}")


def with_name(what: str, content: Mapping[str, Any], overrides: Sequence[str], parse: Callable[[Any, Any], Any]) -> str:
    """A parser's message about `data.sources`, with the name of the source that `parse` refuses if it is alone."""
    if "data.sources" not in what:
        return what
    sources = sources_of(content)
    for name in sources:
        alone = {**content["data"], "init_args": {**content["data"]["init_args"], "sources": {name: sources[name]}}}
        try:
            parse({**content, "data": alone}, _without_others(overrides, name))
        except Exception:  # the parser raises several kinds
            return what.replace("data.sources", f"data.sources.{name}", 1)
    return what


def _without_others(overrides: Sequence[str], name: str) -> list[str]:
    """The options without those of other sources; a value may be a word of its own."""
    kept, skip = list[str](), False
    for word in overrides:
        found = OPTION.match(word)
        if not word.startswith("--") and skip:
            continue
        skip = found is not None and found[1] != name
        if not skip:
            kept.append(word)
    return kept
