"""The table of methods in README.md, from the headers and parts of the recipes and the docstrings of the objectives."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import Any

import cse.objectives
from cse import recipe as recipes
from cse.interfaces import Objective

ROOT = Path(__file__).resolve().parents[1]
PASSES = re.compile(r"(\d+) forward pass(?:es)? per row(?: \([^)]*\))?(?:, and (\d+) of the frozen)?")
PAPER = re.compile(r"(.*?) \(arXiv:(\d{4}\.\d{4,5})\)")
HEADINGS = ("method", "paper", "recipe", "class", "data", "forward passes per row")


def table() -> str:
    """A row per recipe outside recipes/paper, then a row per objective that no recipe names."""
    own = sorted((ROOT / "recipes").glob("[!_]*.yaml"))
    published = sorted((ROOT / "recipes" / "paper").glob("[!_]*.yaml"))
    named: set[str] = set()
    rows = []
    for path in own:
        said, parts = recipes.header(path), recipes.read(path)
        classes = class_paths(parts["objective"])
        named |= set(classes)
        count = sum(other.stem.startswith(f"{path.stem}-") for other in published)
        more = f", [{count} published setting{'s' * (count > 1)}](recipes/paper)" if count else ""
        rows.append(
            [
                said["title"].partition(":")[0],
                paper(said["paper"]),
                f"[{path.stem}](recipes/{path.name}){more}",
                ", ".join(map(link, classes)),
                data(parts["data"]),
                passes(said["cost"]),
            ]
        )
    for found in objectives():
        if f"{found.__module__}.{found.__name__}" not in named:
            rows.append(without_recipe(found))
    lines = [HEADINGS, (":--",) * len(HEADINGS), *sorted(rows, key=lambda row: row[0].lower())]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def class_paths(component: dict[str, Any]) -> list[str]:
    """The class of an objective, then those of its terms."""
    terms = (component.get("init_args") or {}).get("terms") or []
    return [component["class_path"], *(path for term in terms for path in class_paths(term))]


def link(class_path: str) -> str:
    """A class with a link to its file."""
    module, _, name = class_path.rpartition(".")
    return f"[{name}]({module.replace('.', '/')}.py)"


def paper(text: str) -> str:
    """The first paper that a text names, with a link where it has an arXiv number."""
    found = PAPER.match(text)
    return f"[{found[1]}](https://arxiv.org/abs/{found[2]})" if found else text


def data(component: dict[str, Any]) -> str:
    """The kind of a row of the data, in words: `Triplets` with a score column are triplets with a score."""
    kind = re.sub(r"(?<!^)([A-Z])", r" \1", component["class_path"].rpartition(".")[2]).lower()
    scored = (component.get("init_args") or {}).get("score_column") and "score" not in kind
    return f"{kind} with a score" if scored else kind


def passes(cost: str) -> str:
    """The number of forward passes that a header's cost begins with."""
    found = PASSES.match(cost)
    if found is None:
        raise ValueError(f"the cost {cost!r} does not begin with '<N> forward passes per row'")
    return f"{found[1]} + {found[2]} frozen" if found[2] else found[1]


def objectives() -> list[type[Objective]]:
    """Every concrete objective of the package, found by walking it."""
    found = []
    for module in walk_packages(cse.objectives.__path__, "cse.objectives."):
        for value in vars(import_module(module.name)).values():
            if inspect.isclass(value) and issubclass(value, Objective) and value.__module__ == module.name:
                found += [] if inspect.isabstract(value) else [value]
    return found


def without_recipe(objective: type[Objective]) -> list[str]:
    """The row of an objective that a user names on the command line, from its module's docstring."""
    doc = (inspect.getdoc(import_module(objective.__module__)) or "").splitlines()[0]
    cited = re.search(r"\(([^()]*), ([\w.-]+\.\w+/[\w/.-]+)\)", doc)
    path = f"{objective.__module__}.{objective.__name__}"
    return [
        objective.__name__,
        f"[{cited[1]}](https://{cited[2]})" if cited else "",
        f"any, with `--objective={path}`",
        link(path),
        "scored pairs" if "score" in objective.requires else "",
        "",
    ]
