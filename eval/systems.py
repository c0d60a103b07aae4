"""What cse has of the text-only systems of the literature: the table `systems` of docs/methods.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from cse import recipe as recipes
from eval.method_table import paper

ROOT = Path(__file__).resolve().parents[1]
HEADINGS = ("system", "paper", "state", "as what, or why not")


def systems() -> list[dict[str, Any]]:
    """The entries of systems.yaml, in its order."""
    found: list[dict[str, Any]] = yaml.safe_load((ROOT / "eval" / "systems.yaml").read_text(encoding="utf-8"))
    return found


def table() -> str:
    """A row for each system."""
    lines = [HEADINGS, (":--",) * len(HEADINGS)]
    for entry in systems():
        state = "built" if "by" in entry else "on request" if "later" in entry else "left out"
        how = ", ".join(map(shown, entry["by"])) if "by" in entry else entry.get("later") or entry["out"]
        note = f"; {entry['note']}" if "note" in entry else ""
        lines.append((entry["system"], source(entry), state, f"{how}{note}".replace("|", "\\|")))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def source(entry: dict[str, Any]) -> str:
    """The paper of a system: the one that is given, or that of its first recipe."""
    if "paper" in entry:
        return paper(entry["paper"])
    first = next((name for name in entry.get("by", ()) if recipe(name).is_file()), None)
    return paper(recipes.header(recipe(first))["paper"].partition(";")[0]) if first else ""


def shown(name: str) -> str:
    """A recipe with a link to its file; a command or a name of Python as code."""
    return f"[{name}](../recipes/{name}.yaml)" if recipe(name).is_file() else f"`{name}`"


def recipe(name: str) -> Path:
    """The file of a recipe of this name, which may not exist."""
    return ROOT / "recipes" / f"{name}.yaml"
