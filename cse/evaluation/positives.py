"""Pairs: is the positive of an anchor the nearest among the positives of all rows?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cse.batch import Example
from cse.data.same_text import same_text_key
from cse.encoder.vectors import unit
from cse.evaluation.encoding import encode_distinct
from cse.evaluation.finding import Finding, rows_hash, scores
from cse.interfaces import Evaluator, SentenceEncoder

CHUNK = 512  # anchors that are compared at once
DEPTH = 10


class Positives(Evaluator):
    """Search for the positives of each anchor among those of all rows: `mrr@10`, and `hit@1` and `hit@10`.

    Args:
        rows: Rows of an anchor and its positives. Rows with the same anchor share their positives.
        precision: fp32, bf16, or auto: bf16 where native.
        prompt: The name of the encoder's prompt for anchors; None: the encoder's default prompt.
        positive_prompt: The same for positives.
        name: The name of the rows in results.
    """

    primary = f"mrr@{DEPTH}"
    found: list[Finding] | None = None

    def __init__(
        self,
        rows: Sequence[Example],
        *,
        precision: str = "auto",
        prompt: str | None = None,
        positive_prompt: str | None = None,
        name: str = "rows",
    ) -> None:
        self.precision, self.prompt, self.positive_prompt, self.name = precision, prompt, positive_prompt, name
        self._corpus, self._anchors, positives = list[str](), dict[str, str](), dict[str, set[int]]()
        at: dict[str, int] = {}
        for row in rows:
            anchor = same_text_key(row.texts[0])
            self._anchors.setdefault(anchor, row.texts[0])
            for text in row.texts[1 : 1 + row.num_positives]:
                place = at.setdefault(same_text_key(text), len(at))
                if place == len(self._corpus):
                    self._corpus.append(text)
                positives.setdefault(anchor, set()).add(place)
        self._positives = [sorted(positives[anchor]) for anchor in self._anchors]

    def __call__(self, encoder: SentenceEncoder) -> dict[str, float]:
        """Score an encoder."""
        self.found = self.measure(encoder)
        return scores(self.found)

    def texts(self, data: str | None = None) -> dict[str, list[tuple[str, ...]]]:
        """The texts that are scored, which should not be trained on; see `cse.data.checks.KnowsTexts`."""
        return {self.name: [(text,) for text in (*self._anchors.values(), *self._corpus)]}

    def measure(self, encoder: SentenceEncoder) -> list[Finding]:
        """Score an encoder, with the place of the first positive of each anchor."""
        anchors = self._vectors(encoder, list(self._anchors.values()), self.prompt)
        place = self._places(anchors, self._vectors(encoder, self._corpus, self.positive_prompt))
        found = Finding.of(
            self.name,
            kind="retrieval",
            measures={f"mrr@{DEPTH}": ("mean", "mrr"), "hit@1": ("mean", "first"), f"hit@{DEPTH}": ("mean", "near")},
            arrays={"mrr": (place <= DEPTH) / place, "first": place == 1, "near": place <= DEPTH},
            primary=self.primary,
            unit="anchors",
            sha256=rows_hash([self._anchors.values(), self._corpus, *self._positives]),
            where=self.name,
            about={"corpus": len(self._corpus)},
        )
        return [found]

    def _vectors(self, encoder: SentenceEncoder, texts: list[str], prompt: str | None) -> NDArray[np.float32]:
        return unit(encode_distinct(encoder, texts, self.precision, prompt)[0].astype(np.float32))

    def _places(self, anchors: NDArray[np.float32], corpus: NDArray[np.float32]) -> NDArray[np.float64]:
        """From 1, the place (n,) of the nearest positive of each anchor; a text as near as it comes before it."""
        places = []
        for start in range(0, len(anchors), CHUNK):
            cosines = anchors[start : start + CHUNK] @ corpus.T  # (CHUNK, N)
            for row, own in zip(cosines, self._positives[start : start + CHUNK], strict=True):
                best = row[own].max()
                row[own] = -np.inf
                places.append(1 + int((row >= best).sum()))
        return np.array(places, dtype=np.float64)
