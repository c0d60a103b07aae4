"""What the pages say of every method, from the headers and parts of the recipes and the docstrings of the objectives.

`table` and `sections` are on docs/methods.md.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from importlib import import_module
from itertools import dropwhile, takewhile
from pathlib import Path
from pkgutil import walk_packages
from textwrap import dedent
from typing import Any

import cse.objectives
from cse import recipe as recipes
from cse.interfaces import Objective

ROOT = Path(__file__).resolve().parents[1]
PASSES = re.compile(r"(\d+) forward pass(?:es)? per row(?: \([^)]*\))?(?:, and (\d+) of the frozen)?")
PAPER = re.compile(r"(.*?) \(arXiv:(\d{4}\.\d{4,5})\)")
CITED = re.compile(r"\(([^()]*), (?:arXiv:(\d{4}\.\d{4,5})|([\w.-]+\.\w+/[\w/.-]+))\)")
HEADINGS = ("method", "paper", "class", "recipe", "data", "forward passes per row", "choose it")


@dataclass(frozen=True, slots=True)
class Method:
    """A recipe outside recipes/paper, or an objective that no recipe names."""

    title: str  # its name
    paper: str  # its paper, with a link where it has an arXiv number
    classes: tuple[str, ...]  # the class paths of its objective and of the terms of that
    recipe: str = ""  # the stem of the recipe's file; empty for an objective without one
    published: int = 0  # number of its settings in recipes/paper
    rows: str = ""  # the rows that it takes, in words
    passes: str = ""  # number of forward passes per row
    choose: str = ""  # when to choose it


def methods() -> list[Method]:
    """Every method, by title."""
    own = sorted((ROOT / "recipes").glob("[!_]*.yaml"))
    published = [path.stem for path in (ROOT / "recipes" / "paper").glob("[!_]*.yaml")]
    found = []
    for path in own:
        said, parts = recipes.header(path), recipes.read(path)
        longer = [other.stem for other in own if other.stem.startswith(f"{path.stem}-")]
        mine = [s for s in published if s.startswith(f"{path.stem}-") and not s.startswith(tuple(longer))]
        found.append(
            Method(
                title=said["title"].partition(":")[0],
                paper=paper(said["paper"]),
                classes=tuple(class_paths(parts["objective"])),
                recipe=path.stem,
                published=len(mine),
                rows=said["data"].partition(";")[0],
                passes=passes(said["cost"]),
                choose=said["choose"].rstrip("."),
            )
        )
    named = {path for method in found for path in method.classes}
    found += [without_recipe(o) for o in objectives() if f"{o.__module__}.{o.__name__}" not in named]
    return sorted(found, key=lambda method: method.title.lower())


def table() -> str:
    """A row for each method."""
    lines = [HEADINGS, (":--",) * len(HEADINGS)]
    for method in methods():
        classes = ", ".join(map(link, method.classes))
        count = method.published
        more = f", [{count} published setting{'s' * (count > 1)}](../recipes/paper)" if count else ""
        named = f"[{method.recipe}](../recipes/{method.recipe}.yaml){more}"
        named = named if method.recipe else f"any, with `--objective={method.classes[0]}`"
        lines.append((method.title, method.paper, classes, named, method.rows, method.passes, method.choose))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def sections() -> str:
    """A section for each objective: what it is, its equation, its paper, and the recipes that use it."""
    found, parts = methods(), []
    for objective in sorted(objectives(), key=lambda o: o.__name__.lower()):
        path = f"{objective.__module__}.{objective.__name__}"
        summary, equation = of_docstring(objective)
        _, url = cited(objective)
        users = [f"[{m.recipe}](../recipes/{m.recipe}.yaml)" for m in found if m.recipe and path in m.classes]
        about = [f"[{path}]({file_of(path)})", *([f"[paper]({url})"] if url else []), *users, checked(objective)]
        shown = f"```text\n{equation}\n```\n\n" if equation else ""
        parts.append(f"### {objective.__name__}\n\n{summary}\n\n{shown}{' · '.join(about)}\n")
    return "\n".join(parts)


def checked(objective: type[Objective]) -> str:
    """Links to the numbers of other programs that its tests read; else to its test, which computes them by loops."""
    test = Path("tests", "objectives", f"test_{objective.__module__.rpartition('.')[2]}.py")
    text = (ROOT / test).read_text(encoding="utf-8") if (ROOT / test).exists() else ""
    families = re.findall(r'\bcases\(\s*"(\w+)"', text) or families_of_table(objective.__name__)
    links = [f"[{family}](../tests/oracles/{family}.json)" for family in dict.fromkeys(families)]
    return f"checked against {' and '.join(links) or f'[computations of its own test](../{test.as_posix()})'}"


def families_of_table(name: str) -> list[str]:
    """The families of numbers whose rows in the tests' table build an objective, themselves or by a function."""
    text = (ROOT / "tests" / "objectives" / "test_authors_programs.py").read_text(encoding="utf-8")
    functions = re.findall(r"^def (\w+)\((.*?)\n\n\n", text, re.MULTILINE | re.DOTALL)
    builders = "|".join([name, *(function for function, body in functions if re.search(rf"\b{name}\b", body))])
    rows = re.findall(r'\*program\(\s*"(\w+)",([^*]*)', text)
    return [family for family, row in rows if re.search(rf"\b({builders})\b", row)]


def of_docstring(objective: type[Objective]) -> tuple[str, str]:
    """The first paragraph of a docstring, and what is indented right after the paragraphs that follow it."""
    summary, *rest = (inspect.getdoc(objective) or "").split("\n\n")
    blocks = takewhile(is_indented, dropwhile(lambda block: not is_indented(block), rest))
    return " ".join(summary.split()), dedent("\n\n".join(blocks))


def is_indented(block: str) -> bool:
    """Whether a paragraph is an equation or the like."""
    return block.startswith("    ")


def class_paths(component: dict[str, Any]) -> list[str]:
    """The class of an objective, then those of its terms and of objectives among its arguments."""
    arguments = component.get("init_args") or {}
    inner = [part for value in arguments.values() for part in (value if isinstance(value, list) else [value])]
    inner = [part for part in inner if isinstance(part, dict) and ".objectives." in part.get("class_path", "")]
    return [component["class_path"], *(path for part in inner for path in class_paths(part))]


def file_of(class_path: str) -> str:
    """The file of a class, from docs/."""
    return f"../{class_path.rpartition('.')[0].replace('.', '/')}.py"


def link(class_path: str) -> str:
    """A class with a link to its section."""
    name = class_path.rpartition(".")[2]
    return f"[{name}](#{name.lower()})"


def paper(text: str) -> str:
    """The first paper that a text names, with a link where it has an arXiv number."""
    found = PAPER.match(text)
    return f"[{found[1]}](https://arxiv.org/abs/{found[2]})" if found else text


def cited(objective: type[Objective]) -> tuple[str, str]:
    """The paper that the docstring of an objective's module names first: authors and venue, and address."""
    found = CITED.search((inspect.getdoc(import_module(objective.__module__)) or "").splitlines()[0])
    if found is None:
        return "", ""
    return found[1], f"https://arxiv.org/abs/{found[2]}" if found[2] else f"https://{found[3]}"


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
            own = getattr(value, "__module__", None) == module.name  # first: Python 3.10 takes list[int] for a class
            if own and inspect.isclass(value) and issubclass(value, Objective):
                found += [] if inspect.isabstract(value) else [value]
    return found


def without_recipe(objective: type[Objective]) -> Method:
    """An objective that a user names on the command line, from its module's docstring."""
    text, url = cited(objective)
    rows = [name for name in ("score", "label", "relevance") if name in objective.requires]
    return Method(
        title=objective.__name__,
        paper=f"[{text}]({url})" if url else "",
        classes=(f"{objective.__module__}.{objective.__name__}",),
        rows=f"rows with a {' and a '.join(rows)}" if rows else "",
    )
