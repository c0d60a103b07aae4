"""DiscoEval: do frozen vectors of sentences know where these stand in a text (Chen et al., EMNLP 2019)?

    SP     where the first of five sentences belongs     x_1, x_1 - x_2, .., x_1 - x_5    5 classes
    BSO    which of two sentences is the first            u, v, u - v                     every pair in both orders
    DC     whether one of six sentences was replaced      x_1, .., x_6
    SSP    whether a sentence belongs to the abstract     x

A logistic regression over all classes is trained on the vectors. That of SP and BSO is regularized, by the inverse
strength that does best on the dev rows; that of DC and SSP is not.

Source: ZeweiChu/DiscoEval, discoeval/so.py and tools/validation.py, with the classifier of scikit-learn.

Deviations: the published numbers are those of a softmax layer that Adam trains with early stopping, for DC with 2,000
hidden units; this one is solved to its optimum and has no hidden units, so its scores are not comparable with them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from cse.evaluation import sources
from cse.evaluation.classifiers import Labels, Matrix
from cse.evaluation.pairs import fields, lines, require
from cse.evaluation.sources import Missing
from cse.evaluation.sts import Embed, checked
from cse.evaluation.suite import TASKS
from cse.evaluation.transfer_data import Labeled, Row

SPLITS = {"train": "train.txt", "dev": "valid.txt", "test": "test.txt"}
UNREGULARIZED = 1e9  # DiscoEval's inverse strength


@functools.cache
def specs() -> Mapping[str, Mapping[str, Any]]:
    """The content of `tasks/discoeval.yaml`, by task."""
    found: dict[str, Mapping[str, Any]] = yaml.safe_load((TASKS / "discoeval.yaml").read_text(encoding="utf-8"))
    return found


def load(name: str, data: str | None) -> Labeled:
    """Rows of a task from the first folder that has them.

    Raises:
        Missing: No folder has them.
        UserError: The rows are malformed.
    """
    looked = []
    for folder in sources.folders(data):
        for root in (folder, folder / "data", folder / "discoeval"):
            place = root / specs()[name]["folder"]
            try:
                require(place / file for file in SPLITS.values())
            except FileNotFoundError as absent:
                looked.append(str(absent))
                continue
            splits = {split: list(_rows(name, place / file)) for split, file in SPLITS.items()}
            return Labeled(name, "split", splits, str(place))
    raise Missing("; ".join(looked) or "no --data and no CSE_DATA")


def _rows(name: str, path: Path) -> Iterator[Row]:
    """The rows of a file: a label and texts, but for BSO two texts in their order, which give a row for each order."""
    count = specs()[name]["texts"]
    for line, where in lines(path):
        if specs()[name]["features"] == "order":
            first, second = fields(line, 2, where)[:2]
            yield Row("1", (first, second))
            yield Row("0", (second, first))
        else:
            cells = fields(line, 1 + count, where)
            yield Row(cells[0].strip(), tuple(cells[1 : 1 + count]))


def features(rows: Sequence[Row], kind: str, embed: Embed) -> tuple[Matrix, Labels]:
    """The features (n, .) and labels (n,) of rows; `kind` is that of the task."""
    distinct = list(dict.fromkeys(text for row in rows for text in row.texts))
    vectors = checked(embed(distinct), distinct).astype(np.float64)
    place = {text: i for i, text in enumerate(distinct)}
    sides = [vectors[[place[row.texts[side]] for row in rows]] for side in range(len(rows[0].texts))]  # of (n, D)
    if kind == "position":
        sides = [sides[0], *(sides[0] - other for other in sides[1:])]
    elif kind == "order":
        sides = [*sides, sides[0] - sides[1]]
    return np.hstack(sides), np.array([row.label for row in rows])
