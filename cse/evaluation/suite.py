"""The tasks that exist: a task is data, with a version, a license and known pair counts (`tasks/*.yaml`)."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cse.errors import UserError

TASKS = Path(__file__).parent / "tasks"


@dataclass(frozen=True)
class Task:
    """One split of one benchmark, scored as a whole.

    Attributes:
        name: Its name in results: `STS12`, `STSB` (its test split), `STSB-dev`.
        base: The benchmark; also the name of its folder in our layout.
        split: train, dev or test.
        title: What it is, in words.
        version: Raised when scores are no longer comparable.
        license: License of the data.
        scale: Lowest and highest gold score possible.
        counts: Known number of pairs with a gold score, by subset.
        aliases: Other names of the benchmark.
        senteval: Its files in SentEval's folder layout.
        hub: Its data set on the Hub, with the revision.
        shipped: A file of this package that holds it.
    """

    name: str
    base: str
    split: str
    title: str
    version: int
    license: str
    scale: tuple[float, float]
    counts: Mapping[str, int]
    aliases: tuple[str, ...] = ()
    senteval: Mapping[str, Any] = field(default_factory=dict)
    hub: Mapping[str, Any] = field(default_factory=dict)
    shipped: str | None = None

    @property
    def total(self) -> int:
        """Known number of pairs over all subsets."""
        return sum(self.counts.values())


@functools.cache
def tasks() -> Mapping[str, Task]:
    """Every task by name; a benchmark's own name stands for its default split."""
    found: dict[str, Task] = {}
    for path in sorted(TASKS.glob("*.yaml")):
        spec = yaml.safe_load(path.read_text(encoding="utf-8"))
        if "splits" in spec:
            found |= {task.name: task for task in (_task(spec, split) for split in spec["splits"])}
    return found


@functools.cache
def groups() -> Mapping[str, tuple[str, ...]]:
    """The names of the tasks of each group."""
    spec = yaml.safe_load((TASKS / "groups.yaml").read_text(encoding="utf-8"))
    return {name: tuple(members) for name, members in spec.items()}


def resolve(names: str, option: str = "--tasks") -> list[Task]:
    """The tasks that a comma-separated list of tasks and groups names, each once, in that order.

    Args:
        names: The list.
        option: The option that gave it.

    Raises:
        UserError: A name is unknown; the message has the nearest one.
    """
    found: dict[str, Task] = {}
    for name in filter(None, (part.strip() for part in names.split(","))):
        found |= {task.name: task for task in (_find(one, option) for one in groups().get(name.lower(), (name,)))}
    if not found:
        raise UserError(f"{option} {names!r} names no task\nfix: use one of {', '.join([*groups(), *tasks()])}")
    return list(found.values())


def _task(spec: Mapping[str, Any], split: str) -> Task:
    base = spec["name"]
    # A shipped set always says its split, so that nobody takes the dev set's score for the test set's.
    plain = split == spec["default"] and "shipped" not in spec
    return Task(
        name=base if plain else f"{base}-{split}",
        base=base,
        split=split,
        title=spec["title"],
        version=spec["version"],
        license=spec["license"],
        scale=(float(spec["scale"][0]), float(spec["scale"][1])),
        counts=spec["splits"][split],
        aliases=tuple(spec["aliases"]),
        senteval=spec.get("senteval", {}),
        hub=spec.get("hub", {}),
        shipped=spec.get("shipped", {}).get(split),
    )


@functools.cache
def _spellings() -> Mapping[str, str]:
    """Lower-case spellings of every task's name: its own, aliases of its benchmark, and those with the split said."""
    found = {}
    for task in tasks().values():
        for alias in (task.base, *task.aliases):
            found[f"{alias}-{task.split}".lower()] = task.name
            if task.name == task.base:
                found[alias.lower()] = task.name
    return found


def _find(name: str, option: str) -> Task:
    known = _spellings()
    if name.lower() in known:
        return tasks()[known[name.lower()]]
    near = difflib.get_close_matches(name.lower(), [*known, *groups()], n=1, cutoff=0.0)
    raise UserError(
        f"{option}: unknown task {name!r}; the nearest is {known.get(near[0], near[0])!r}\n"
        f"fix: use a group ({', '.join(groups())}) or a task ({', '.join(tasks())})"
    )
