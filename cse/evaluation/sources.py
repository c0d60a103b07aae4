"""Where a task's rows come from: --data, then CSE_DATA, then the Hub at a pinned revision."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

from cse.assets.hub import HubError, snapshot
from cse.errors import UserError
from cse.evaluation import pairs
from cse.evaluation.pairs import Pairs
from cse.evaluation.suite import Task

SHIPPED = Path(__file__).parent / "data"
POOLED = "pooled"  # the one subset of a source that does not say which rows belong to which

# SICK-R's training and dev rows as `pairs.sha256` hashes them.
SICKR_HASHES = {
    "train": "bb039fd3eb4783a3ecc06f6a19fe8158b255b03378d7af9290ec36ffb887fd68",
    "dev": "dcdeca9555fe0ce0466198a7b4a40b2a33b362cf40caf391356274fa7749249a",
}


class Missing(Exception):
    """The data of a task were not found; the message says where they were looked for."""


@dataclass(frozen=True)
class Source:
    """The place that rows were read from.

    Attributes:
        kind: folder, hub or shipped.
        where: The folder, or the Hub's data set and revision.
        layout: tsv, senteval or hub.
        text: raw as published, or tokenized as in SentEval's files, on which papers report; told by punctuation.
        sha256: Hash of the rows.
        blank: Number of rows that were left out because they have no gold score.
        checked: Whether the numbers of rows and the range of gold scores are the known ones.
    """

    kind: str
    where: str
    layout: str
    text: str
    sha256: str
    blank: int
    checked: bool


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

    Args:
        task: The task.
        data: A folder in our TSV layout or SentEval's.
        check: Whether to refuse other numbers of pairs than the known ones, and gold scores off the scale.
        hub: Whether to ask the Hub if no folder has them.

    Raises:
        Missing: No source has them.
        UserError: A source has them, malformed or in another number.
    """
    if task.shipped:
        path = SHIPPED / task.shipped
        if not path.is_file():
            raise Missing(f"no {path}")
        return _found(task, pairs.read_shipped(task, path), ("shipped", task.shipped, "tsv", "raw"), check)
    looked = []
    for folder in folders(data):
        try:
            return _from_folder(task, folder, check)
        except FileNotFoundError as absent:
            looked.append(str(absent))
    if not hub:
        raise Missing("; ".join(looked))
    try:
        return _from_hub(task, check)
    except Missing as absent:
        looked.append(str(absent))
    raise Missing("; ".join(looked))


def folders(data: str | None, option: str = "--data") -> list[Path]:
    """The folders that were given, in the order in which they are asked.

    Args:
        data: The folder of the option.
        option: Its name.

    Raises:
        UserError: One does not exist.
    """
    found = []
    for name, given in ((option, data), ("CSE_DATA", os.environ.get("CSE_DATA"))):
        if given:
            folder = Path(given).expanduser()
            if not folder.is_dir():
                raise UserError(
                    f"{name}: the folder {given!r} does not exist\nfix: give a folder that holds STS12/, STSB/, ..."
                )
            found.append(folder)
    return found


def _from_folder(task: Task, folder: Path, check: bool) -> TaskData:
    """SentEval's layout has an STS or SICK folder, at the top or in `downstream`; ours has the task's."""
    for root in (folder, folder / "downstream"):  # the layout of SentEval
        # By listing, since `sts` is `STS` to some file systems.
        if task.senteval and root.is_dir() and {"STS", "SICK"} & set(os.listdir(root)):
            return _found(task, pairs.read_senteval(task, root), ("folder", str(root), "senteval", "tokenized"), check)
    root = folder if (folder / task.base).is_dir() else folder / "sts"  # so that one folder may hold transfer/ too
    root = root if root.is_dir() else folder
    return _found(task, pairs.read_tsv(task, root), ("folder", str(root), "tsv", "raw"), check)


def _from_hub(task: Task, check: bool) -> TaskData:
    path, revision = task.hub["path"], task.hub["revision"]
    where = f"{path}@{revision[:8]}"
    rows = _hub_rows(path, revision, task.hub["splits"][task.split] if "splits" in task.hub else task.hub["joined"])
    found = pairs.make_pairs(rows["score"], rows["sentence1"], rows["sentence2"], where)
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
        known = all(pairs.sha256({"": parts[split]}) == digest for split, digest in SICKR_HASHES.items())
        if len(joined) == start and known:
            return parts[task.split]
    raise Missing(f"Hub {where}: its rows are not in an order in which the {task.split} split can be recognized")


def _found(task: Task, subsets: Mapping[str, Pairs], origin: tuple[str, str, str, str], check: bool) -> TaskData:
    kind, where, layout, text = origin
    if check:
        pairs.check_known(task, subsets, where)
    source = Source(
        kind=kind,
        where=where,
        layout=layout,
        text=pairs.text_form(subsets, otherwise=text),
        sha256=pairs.sha256(subsets),
        blank=sum(p.blank for p in subsets.values()),
        checked=check,
    )
    return TaskData(task, subsets, source)
