"""The texts of every evaluation set on this machine, to check whether the training text contains them."""

from __future__ import annotations

import contextlib

from cse.evaluation import sources, suite, transfer_data
from cse.evaluation.sources import Missing


def texts_at_hand(data: str | None) -> dict[str, list[tuple[str, ...]]]:
    """Rows by task: pairs of STS, sentences or pairs of transfer tasks. Nothing is fetched.

    Sets whose size is not the known one are included: only their text matters here.

    Args:
        data: A folder with evaluation sets, in addition to those in CSE_DATA and the shipped ones.

    Raises:
        UserError: There is no such folder, or a set in it is malformed.
    """
    found: dict[str, list[tuple[str, ...]]] = {}
    for name, task in suite.tasks().items():
        with contextlib.suppress(Missing):
            subsets = sources.load(task, data, check=False, hub=False).subsets.values()
            found[name] = [row for pairs in subsets for row in zip(pairs.first, pairs.second, strict=True)]
    for name in transfer_data.specs():
        with contextlib.suppress(Missing):
            splits = transfer_data.load(name, data, check=False).splits
            found[name] = [row.texts for rows in splits.values() for row in rows]
    return found
