"""The papers to cite: the docstring of a method names its paper, and `citations.bib` has the entry."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from cse.publish.card.facts import mixed

ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")


def citations(recipe: Mapping[str, Any]) -> list[str]:
    """BibTeX entries of the papers whose methods a resolved recipe uses, without repeats."""
    known = _entries()
    found: dict[str, str] = {}
    parts = [recipe.get("objective"), *(source.get("objective") for source in mixed(recipe).values())]
    for class_path in (*_classes(parts), *_classes(recipe.get("encoder"))):
        for paper, title in _papers(class_path):
            found.setdefault(paper, known.get(paper) or _made(paper, title))
    return list(found.values())


def _classes(component: Any) -> Iterator[str]:
    """The class_path of a component, and those of the components among its arguments."""
    if isinstance(component, list):
        for item in component:
            yield from _classes(item)
    elif isinstance(component, Mapping):
        if isinstance(component.get("class_path"), str):
            yield component["class_path"]
        for value in (component.get("init_args") or {}).values():
            yield from _classes(value)


def _papers(class_path: str) -> list[tuple[str, str]]:
    """(arXiv id, title) in the docstring of the module of a class, or of the class if the module names no paper."""
    module, _, name = class_path.rpartition(".")
    if module not in sys.modules and module.partition(".")[0] != "cse":
        return []  # the run may be a stranger's, whose code is not run to cite it
    try:
        loaded = import_module(module)
        docs = [inspect.getdoc(loaded) or "", inspect.getdoc(getattr(loaded, name)) or ""]
    except (ImportError, AttributeError):  # a class of the user that cannot be imported here
        return []
    for doc in docs:
        if ARXIV.search(doc):
            return [(ARXIV.findall(doc)[0], doc.splitlines()[0].partition(" (")[0].rstrip("."))]
    link = re.search(r"\(([^()]+, \d{4}, ([\w.-]+\.\w+/[\w/.-]+))\)", docs[0])
    return [(link[2], docs[0].splitlines()[0].partition(" (")[0])] if link else []


def _entries() -> dict[str, str]:
    """The entries of `citations.bib`, by key."""
    text = Path(__file__).with_name("citations.bib").read_text(encoding="utf-8")
    found = re.finditer(r"^@\w+\{([^,]+),.*?^\}", text, re.DOTALL | re.MULTILINE)
    return {match[1]: match[0] for match in found}


def _made(paper: str, title: str) -> str:
    """An entry for a paper that `citations.bib` lacks, from its title and address."""
    where = f"https://arxiv.org/abs/{paper}" if re.fullmatch(r"\d{4}\.\d+", paper) else f"https://{paper}"
    return f"@misc{{{paper.replace('/', '-')},\n  title = {{{title}}},\n  url   = {{{where}}}\n}}"
