"""Counts what rows hold, for whoever has not chosen an encoder yet."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from cse.data.checks import EvaluationSets, examine
from cse.data.datasets import Dataset
from cse.data.numbering import Numbering, Numbers, fingerprints, without_collision
from cse.data.tools.writing import UNITS


def stats(data: Dataset, against: EvaluationSets | None = None) -> dict[str, Any]:
    """Count rows, texts, repetitions, lengths, languages, labels and scores.

    Args:
        data: The rows.
        against: Evaluation sets by name, whose texts are looked for.

    Returns:
        What `cse.data.checks.examine` returns, without lengths in tokens; `class`; `labels`, the number of rows of
        each; and `scores`, with `min`, `mean` and `max`, on the scale on which they were read.
    """
    with TemporaryDirectory(prefix="cse-") as folder:
        report = examine(data, without_collision(lambda seed: _Numbered(data, Path(folder), seed)), against or {})
    report = {"class": UNITS.get(data.unit, data.unit), **report}
    labels, scores = data.labels(), data.scores()
    if labels is not None:
        counts = np.bincount(labels, minlength=len(data.label_names))
        report["labels"] = dict(zip(data.label_names, counts.tolist(), strict=True))
    if scores is not None:
        report["scores"] = {name: float(f(scores)) for name, f in (("min", np.min), ("mean", np.mean), ("max", np.max))}
    return report


class _Numbered:
    """The numbers of texts; see `cse.data.checks.NumbersTexts`."""

    def __init__(self, data: Dataset, folder: Path, seed: int) -> None:
        numbering, self._seed = Numbering(folder), seed
        for block in data.texts().blocks():
            numbering.add(fingerprints(block, seed))
        numbering.close()
        self._numbers = Numbers(folder)

    def __len__(self) -> int:
        return len(self._numbers)

    def text_ids(self, texts: list[str]) -> Any:
        """The numbers (n,) of texts."""
        return self._numbers.find(fingerprints(texts, self._seed))
