"""STS tasks and their rows: a task is data, with a version, a license and known pair counts (`tasks/*.yaml`).

Rows come from --data, then CSE_DATA, in our TSV layout or SentEval's folder layout, then the Hub at a pinned revision.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import math
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from cse.assets.hub import HubError, snapshot
from cse.data.reading.rows import number_fix, number_in
from cse.errors import UserError

TASKS = Path(__file__).parents[1] / "tasks"
HEADER = ["score", "sentence1", "sentence2"]
OURS = {"columns": {"gold": 0, "first": 1, "second": 2}, "header": 1}  # the layout of our files
_Row = tuple[str, str, str, str]  # gold, first, second, and file:line
SHIPPED = Path(__file__).parents[1] / "data"
POOLED = "pooled"  # the one subset of a source that does not say which rows belong to which
# SICK-R's training and dev rows as `sha256` hashes them.
SICKR_HASHES = {
    "train": "bb039fd3eb4783a3ecc06f6a19fe8158b255b03378d7af9290ec36ffb887fd68",
    "dev": "dcdeca9555fe0ce0466198a7b4a40b2a33b362cf40caf391356274fa7749249a",
}


@dataclass(frozen=True)
class Task:
    """One split of one benchmark, scored as a whole."""

    name: str  # its name in results: `STS12`, `STSB` (its test split), `STSB-dev`
    base: str  # the benchmark; also the name of its folder in our layout
    split: str  # train, dev or test
    version: int  # raised when scores are no longer comparable
    license: str  # license of the data
    scale: tuple[float, float]  # lowest and highest gold score possible
    counts: Mapping[str, int]  # known number of pairs with a gold score, by subset
    aliases: Sequence[str]  # other names of the benchmark
    senteval: Mapping[str, Any]  # its files in SentEval's folder layout
    hub: Mapping[str, Any]  # its data set on the Hub, with the revision
    shipped: str | None  # a file of this package that holds it

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
    """The tasks that a comma-separated list of tasks and groups names, each once, in that order."""
    found: dict[str, Task] = {}
    for name in filter(None, (part.strip() for part in names.split(","))):
        found |= {task.name: task for task in (_find(one, option) for one in groups().get(name.lower(), (name,)))}
    if not found:
        raise UserError(f"{option} {names!r} names no task\nfix: use one of {', '.join([*groups(), *tasks()])}")
    return list(found.values())


def _task(spec: Mapping[str, Any], split: str) -> Task:
    # A shipped set always says its split, so that nobody takes the dev set's score for the test set's.
    plain = split == spec["default"] and "shipped" not in spec
    name, shipped = spec["name"], spec.get("shipped", {}).get(split)
    same = {key: spec[key] for key in ("version", "license", "aliases")}
    same |= {key: spec.get(key, {}) for key in ("senteval", "hub")}
    name_of = name if plain else f"{name}-{split}"
    scale = float(spec["scale"][0]), float(spec["scale"][1])
    return Task(name_of, name, split, scale=scale, counts=spec["splits"][split], shipped=shipped, **same)


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


APART, ATTACHED = re.compile(r"\s[.,?](?=\s|$)"), re.compile(r"\w[.,?](?=\s|$)")


@dataclass(frozen=True)
class Pairs:
    """Scored pairs: one sentence and the other, gold scores (n,), and the number of rows left out, which have none."""

    first: tuple[str, ...]
    second: tuple[str, ...]
    gold: NDArray[np.float64]
    blank: int = 0

    def __len__(self) -> int:
        return len(self.first)


def read_tsv(task: Task, folder: Path) -> dict[str, Pairs]:
    """Subsets of a task in our layout: `folder/<TASK>/<subset>.tsv`; FileNotFoundError if a file is missing."""
    paths = {subset: folder / task.base / f"{subset}.tsv" for subset in task.counts}
    require(paths.values())
    return {subset: _pairs(_column_rows(path, OURS)) for subset, path in paths.items()}


def read_shipped(task: Task, path: Path) -> dict[str, Pairs]:
    """Subsets of a shipped file, whose fourth column names the subset of each row."""
    rows = defaultdict(list)
    for line, where in lines(path, skip=1):
        gold, first, second, subset = fields(line, 4, where)[:4]
        rows[subset].append((gold, first, second, where))
    return {subset: _pairs(found) for subset, found in sorted(rows.items())}


def read_senteval(task: Task, folder: Path) -> dict[str, Pairs]:
    """Subsets of a task in the layout of SentEval's `downstream` folder; FileNotFoundError if a file is missing.

    Rows with an empty gold score are left out.
    """
    if "pairs" in task.senteval:
        base = folder / task.senteval["pairs"]
        files = {s: (base / f"STS.input.{s}.txt", base / f"STS.gs.{s}.txt") for s in task.counts}
        require(path for both in files.values() for path in both)
        return {subset: _pairs(_twin_rows(*both)) for subset, both in files.items()}
    path = folder / task.senteval["files"][task.split]
    require([path])
    return {task.split: _pairs(_column_rows(path, task.senteval))}


def check_known(task: Task, subsets: Mapping[str, Pairs], where: str) -> None:
    """Refuse data whose size is not the known one, or whose gold scores are impossible."""
    low, high = task.scale
    for subset, pairs in subsets.items():
        outside = np.flatnonzero((pairs.gold < low) | (pairs.gold > high))
        if len(outside):
            raise UserError(
                f"{task.name}: {where}, subset {subset}: the gold score {pairs.gold[outside[0]]:g} of pair "
                f"{outside[0] + 1} lies outside {low:g} to {high:g}\nfix: correct the data, or pass --unchecked"
            )
        known = task.counts.get(subset, task.total)
        if task.counts and len(pairs) != known:
            raise UserError(
                f"{task.name}: {where}, subset {subset}: {len(pairs)} pairs with a gold score where {known} are known."
                f"\nA score on other rows is not comparable, so nothing was scored.\n"
                f"fix: fetch the set again, or pass --unchecked if another set is intended"
            )


def sha256(subsets: Mapping[str, Pairs]) -> str:
    """Hash of the rows themselves, in order: the same whatever layout or number format they were read from."""
    digest = hashlib.sha256()
    for pairs in subsets.values():
        for gold, first, second in zip(pairs.gold, pairs.first, pairs.second, strict=True):
            digest.update(f"{float(gold)!r}\t{first}\t{second}\n".encode())
    return digest.hexdigest()


def text_form(subsets: Mapping[str, Pairs], otherwise: str) -> str:
    """Tell whether texts are raw or tokenized: does punctuation stand apart from words more often than not?"""
    apart = attached = 0
    for pairs in subsets.values():
        for text in pairs.first + pairs.second:
            apart += len(APART.findall(text))
            attached += len(ATTACHED.findall(text))
    if not apart + attached:
        return otherwise
    return "tokenized" if apart > attached else "raw"


def make_pairs(gold: Iterable[Any], first: Iterable[str], second: Iterable[str], where: str) -> Pairs:
    """Checked pairs from columns, for data that was not read from a file of lines."""
    rows = zip(gold, first, second, strict=True)
    return _pairs((str(g), a, b, f"{where} row {i}") for i, (g, a, b) in enumerate(rows))


def _pairs(rows: Iterable[_Row]) -> Pairs:
    kept, blank = list[tuple[float, str, str]](), 0
    for gold, first, second, where in rows:
        if not gold.strip():
            blank += 1
            continue
        if not first.strip() or not second.strip():
            raise UserError(f"{where}: a sentence is empty\nfix: remove or correct the row")
        score = number_in(gold)
        if not math.isfinite(score):
            raise UserError(f"{where}: the gold score {gold[:40]!r} is not a number\nfix: {number_fix(gold)}")
        kept.append((score, first, second))
    scores, firsts, seconds = zip(*kept, strict=True) if kept else ((), (), ())
    return Pairs(firsts, seconds, np.array(scores, dtype=np.float64), blank)


def _twin_rows(texts: Path, golds: Path) -> Iterator[_Row]:
    rows, scores = list(lines(texts)), list(lines(golds))
    if len(rows) != len(scores):
        raise UserError(
            f"{texts} has {len(rows)} lines and {golds} has {len(scores)}\nfix: make the two match line by line"
        )
    for (line, where), (gold, _) in zip(rows, scores, strict=True):
        first, second = fields(line, 2, where)[:2]
        yield gold, first, second, where


def _column_rows(path: Path, layout: Mapping[str, Any]) -> Iterator[_Row]:
    columns = layout["columns"]
    for line, where in lines(path, skip=int(layout["header"])):
        cells = fields(line, max(columns.values()) + 1, where)
        yield cells[columns["gold"]], cells[columns["first"]], cells[columns["second"]], where


def lines(
    path: Path, skip: int = 0, header: list[str] | None = HEADER, encoding: str = "utf-8-sig"
) -> Iterator[tuple[str, str]]:
    """Each line with its file and number. Only line feeds end a line: `splitlines` would also cut inside texts."""
    try:
        text = path.read_bytes().decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8\nfix: convert the file to UTF-8") from None
    found = text.split("\n")
    if found[-1] == "":
        found.pop()
    if skip and header and path.suffix == ".tsv" and (not found or found[0].rstrip("\r").split("\t")[:3] != header):
        raise UserError(
            f"{path}:1: the header must read: {' '.join(header)} (tab separated)\nfix: correct the first line"
        )
    for number, line in enumerate(found[skip:], start=skip + 1):
        yield line.rstrip("\r"), f"{path}:{number}"


def fields(line: str, at_least: int, where: str) -> list[str]:
    """The tab-separated cells of a line, of which there must be `at_least`."""
    cells = line.split("\t")
    if len(cells) < at_least:
        raise UserError(
            f"{where}: {len(cells)} tab-separated fields where {at_least} are needed: {line[:60]!r}\n"
            "fix: correct the row"
        )
    return cells


def require(paths: Iterable[Path]) -> None:
    """Raise FileNotFoundError, naming the first, unless all are files."""
    absent = [str(path) for path in paths if not path.is_file()]
    if absent:
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise FileNotFoundError(f"no {absent[0]}{more}")


class Missing(Exception):
    """The data of a task were not found; the message says where they were looked for."""


@dataclass(frozen=True)
class Source:
    """The place that rows were read from."""

    kind: str  # folder, hub or shipped
    where: str  # the folder, or the Hub's data set and revision
    layout: str  # tsv, senteval or hub
    text: str  # raw as published, or tokenized as in SentEval's files, on which papers report; told by punctuation
    sha256: str  # hash of the rows
    blank: int  # number of rows that were left out because they have no gold score
    checked: bool  # whether the numbers of rows and the range of gold scores are the known ones


@dataclass(frozen=True)
class TaskData:
    """A task with its rows."""

    task: Task
    subsets: Mapping[str, Pairs]
    source: Source


def default_tasks(data: str | None) -> str:
    """The tasks to score if none are named: those of the field with a folder of their rows, else the shipped ones."""
    return "sts" if folders(data) else "sts-mini"


def load(task: Task, data: str | None = None, *, check: bool = True, hub: bool = True) -> TaskData:
    """Rows of a task from the first source that has them.

    `hub` says whether to ask the Hub if no folder has them.

    Raises:
        Missing: No source has them.
        UserError: A source has them, malformed or in another number.
    """
    if task.shipped:
        path = SHIPPED / task.shipped
        if not path.is_file():
            raise Missing(f"no {path}")
        return _found(task, read_shipped(task, path), ("shipped", task.shipped, "tsv", "raw"), check)
    looked = []
    for folder in folders(data):
        try:
            return _from_folder(task, folder, check)
        except FileNotFoundError as absent:
            looked.append(str(absent))
    try:
        if hub:
            return _from_hub(task, check)
    except Missing as absent:
        looked.append(str(absent))
    raise Missing("; ".join(looked))


def folders(data: str | None, option: str = "--data") -> list[Path]:
    """The folders that were given, by an option or CSE_DATA, in the order in which they are asked."""
    found = []
    for name, given in ((option, data), ("CSE_DATA", os.environ.get("CSE_DATA"))):
        if given:
            folder = Path(given).expanduser()
            if not folder.is_dir():
                what = f"{given!r} is a file" if folder.exists() else f"the folder {given!r} does not exist"
                raise UserError(f"{name}: {what}\nfix: give a folder that holds STS12/, STSB/, ...")
            found.append(folder)
    return found


def _from_folder(task: Task, folder: Path, check: bool) -> TaskData:
    """SentEval's layout has an STS or SICK folder, at the top or in `downstream`; ours has the task's."""
    for root in (folder, folder / "downstream"):  # the layout of SentEval
        # By listing, since `sts` is `STS` to some file systems.
        if task.senteval and root.is_dir() and {"STS", "SICK"} & set(os.listdir(root)):
            return _found(task, read_senteval(task, root), ("folder", str(root), "senteval", "tokenized"), check)
    root = folder if (folder / task.base).is_dir() else folder / "sts"  # so that one folder may hold transfer/ too
    root = root if root.is_dir() else folder
    return _found(task, read_tsv(task, root), ("folder", str(root), "tsv", "raw"), check)


def _from_hub(task: Task, check: bool) -> TaskData:
    path, revision = task.hub["path"], task.hub["revision"]
    where = f"{path}@{revision[:8]}"
    rows = _hub_rows(path, revision, task.hub["splits"][task.split] if "splits" in task.hub else task.hub["joined"])
    found = make_pairs(rows["score"], rows["sentence1"], rows["sentence2"], where)
    if "joined" in task.hub:
        found = _cut(task, found, where)
    # The Hub's sets do not say which rows belong to which subset, except where there is but one.
    subset = POOLED if len(task.counts) > 1 else next(iter(task.counts))
    return _found(task, {subset: found}, ("hub", where, "hub", "raw"), check)


def _hub_rows(path: str, revision: str, split: str) -> Any:
    from datasets import load_dataset

    try:
        return load_dataset(str(snapshot(path, kind="dataset", revision=revision)), split=split)
    except HubError as error:
        raise Missing(f"Hub: {path}: {error.reason}") from error


def _cut(task: Task, joined: Pairs, where: str) -> Pairs:
    """The part of SICK-R's joined rows that is this task's, found by recognizing the training and dev parts."""
    sizes = {"train": 4500, "dev": 500, "test": 4927}
    for order in permutations(sizes):
        parts, start = dict[str, Pairs](), 0
        for name in order:
            part = slice(start, start + sizes[name])
            parts[name] = Pairs(joined.first[part], joined.second[part], joined.gold[part], joined.blank)
            start += sizes[name]
        known = all(sha256({"": parts[split]}) == digest for split, digest in SICKR_HASHES.items())
        if len(joined) == start and known:
            return parts[task.split]
    raise Missing(f"Hub {where}: its rows are not in an order in which the {task.split} split can be recognized")


def _found(task: Task, subsets: Mapping[str, Pairs], origin: tuple[str, str, str, str], check: bool) -> TaskData:
    kind, where, layout, text = origin
    if check:
        check_known(task, subsets, where)
    blank = sum(pairs.blank for pairs in subsets.values())
    source = Source(kind, where, layout, text_form(subsets, otherwise=text), sha256(subsets), blank, check)
    return TaskData(task, subsets, source)
