"""Triplets: is the anchor nearer to its positive than to its negatives?"""

from __future__ import annotations

from collections.abc import Sized
from itertools import pairwise
from pathlib import Path

import numpy as np

from cse.data import datasets
from cse.data.reading.texts import same_text_key
from cse.errors import UserError
from cse.evaluation.encoding import comparison, encode_distinct
from cse.evaluation.finding import Finding, Measuring
from cse.evaluation.row_sets import TEST, described, set_name
from cse.interfaces import SentenceEncoder


class Triplets(Measuring):
    """Share x 100 of the triplets whose anchor has a larger cosine with its positive than with every negative.

    A row without a negative, or with a negative that is the same text as its positive, is left out and counted. For a
    model that is compared by distance, the cosine is replaced by the negative distance.

    Args:
        data: Triplets, or what `cse.data.Triplets` reads them from; of a Hub id, the split `test`.
        precision: fp32, bf16, or auto: bf16 where native.
        prompt: The name of the encoder's prompt that is put before all texts; None: the encoder's default prompt.
        name: The name of the rows in results. None: that of their file.

    Raises:
        UserError: The rows cannot be read, or none is left.

    Source:
        `TripletEvaluator` of sentence-transformers, for one negative: equal cosines count as wrong.
    """

    primary = "accuracy"

    def __init__(
        self,
        data: datasets.Triplets | str | Path | Sized,
        *,
        precision: str = "auto",
        prompt: str | None = None,
        name: str | None = None,
    ) -> None:
        self.data, self.precision, self.prompt = data, precision, prompt
        self._data = data if isinstance(data, datasets.Dataset) else datasets.Triplets(data, split=TEST)
        self.name = name or set_name(self._data)
        rows = [row.texts for row in self._data]
        without = [len(texts) < 3 for texts in rows]
        same = [same_text_key(texts[1]) in map(same_text_key, texts[2:]) for texts in rows]
        self._left_out = {"without_negative": sum(without), "same_as_negative": sum(same)}
        self._rows = [texts for texts, *out in zip(rows, without, same, strict=True) if not any(out)]
        self._texts = [text for row in self._rows for text in row]
        if not self._rows:
            raise UserError(
                f"evaluator.data: no triplet of {self._data.name} is left: {sum(without)} have no negative, and "
                f"{sum(same)} have a negative that is their positive\nfix: give rows of anchor, positive and negative"
            )

    def measure(self, encoder: SentenceEncoder) -> list[Finding]:
        """Score an encoder, with the rows that it gets right."""
        vectors, row = encode_distinct(encoder, self._texts, self.precision, self.prompt)
        anchors = [row[texts[0]] for texts in self._rows for _ in texts[1:]]
        similarity = comparison(encoder)(vectors, anchors, [row[text] for texts in self._rows for text in texts[1:]])
        starts = np.cumsum([0, *(len(texts) - 1 for texts in self._rows)])
        right = [similarity[a] > similarity[a + 1 : b].max() for a, b in pairwise(starts)]
        found = Finding.of(
            self.name,
            kind="triplets",
            measures={"accuracy": ("mean", "right")},
            arrays={"right": right},
            primary=self.primary,
            unit="triplets",
            sha256=self._data.hash,
            where=self._data.name,
            about=described(self._data, self._left_out),
        )
        return [found]
