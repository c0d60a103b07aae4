"""Scored pairs: does the cosine of two texts rank them as people do?"""

from __future__ import annotations

from collections.abc import Sized
from pathlib import Path

import numpy as np

from cse.data.datasets import Dataset, ScoredPairs
from cse.evaluation.encoding import comparison, encode_distinct
from cse.evaluation.finding import Finding, Measuring
from cse.evaluation.row_sets import TEST, columns_of, described, set_name
from cse.evaluation.sts import correlation
from cse.interfaces import SentenceEncoder


class Similarity(Measuring):
    """Correlation x 100 of cosines with scores: `spearman` and `pearson`.

    For a model that is compared by distance, the cosine is replaced by the negative distance.

    Args:
        data: Scored pairs, or what `cse.data.ScoredPairs` reads them from, on any scale; of a Hub id, the split `test`.
        precision: fp32, bf16, or auto: bf16 where native.
        prompt: The name of the encoder's prompt that is put before both texts; None: the encoder's default prompt.
        name: The name of the rows in results. None: that of their file.

    Raises:
        UserError: The rows cannot be read, or all scores are equal.
    """

    primary = "spearman"

    def __init__(
        self,
        data: ScoredPairs | str | Path | Sized,
        *,
        precision: str = "auto",
        prompt: str | None = None,
        name: str | None = None,
    ) -> None:
        self.data, self.precision, self.prompt = data, precision, prompt
        self._rows = (
            data if isinstance(data, Dataset) else ScoredPairs(data, min_score=None, max_score=None, split=TEST)
        )
        self._first, self._second = columns_of(self._rows)
        self.name = name or set_name(self._rows)
        self._gold = np.array([row.score for row in self._rows])
        correlation(np.arange(float(len(self._gold))), self._gold, self.name)  # refuses equal scores

    def texts(self, data: str | None = None) -> dict[str, list[tuple[str, ...]]]:
        """The texts that are scored, which should not be trained on; see `cse.data.checks.KnowsTexts`."""
        return {self.name: [(*pair,) for pair in zip(self._first, self._second, strict=True)]}

    def measure(self, encoder: SentenceEncoder) -> list[Finding]:
        """Score an encoder, with the cosine of each pair."""
        vectors, row = encode_distinct(encoder, [*self._first, *self._second], self.precision, self.prompt)
        compare = comparison(encoder)
        similarity = compare(vectors, [row[text] for text in self._first], [row[text] for text in self._second])
        correlation(similarity, self._gold, self.name)  # refuses equal cosines
        found = Finding.of(
            self.name,
            kind="similarity",
            measures={name: (name, "cosine", "gold") for name in ("spearman", "pearson")},
            arrays={"cosine": similarity, "gold": self._gold},
            primary=self.primary,
            unit="pairs",
            sha256=self._rows.hash,
            where=self._rows.name,
            about=described(self._rows),
        )
        return [found]
