"""Paraphrases: are the known pairs among the most similar pairs of a list of texts?"""

from __future__ import annotations

import math
from collections.abc import Sized
from pathlib import Path

import numpy as np

from cse.data.datasets import Dataset, Pairs, Texts
from cse.errors import UserError, require_at_least
from cse.evaluation.encoding import comparison, device_of, encode_distinct
from cse.evaluation.finding import Finding, Measuring, rows_hash
from cse.evaluation.mined_pairs import judge, keys, mine_pairs, operands
from cse.evaluation.row_sets import TEST, described, set_name
from cse.evaluation.sts import nearness
from cse.interfaces import SentenceEncoder


class Paraphrases(Measuring):
    """Average precision x 100 of mined pairs against known ones (`ap`), and the highest F1 of any threshold (`f1`).

    A model that is compared by distance is scored by distance. The texts are those of the known pairs and of `more`,
    each once; all of their pairs are compared.

    Args:
        data: Pairs of texts that are known to be paraphrases, or what `cse.data.Pairs` reads them from; of a Hub
            id, the split `test`.
        more: Further texts to search in, or what `cse.data.Texts` reads them from. None: those of the pairs only.
        neighbors: Number of other texts that are searched for each text.
        keep: Number of the most similar pairs that are judged.
        precision: fp32, bf16, or auto: bf16 where native.
        prompt: The name of the encoder's prompt that is put before all texts; None: the encoder's default prompt.
        name: The name of the rows in results. None: that of their file.

    Raises:
        UserError: The rows cannot be read, or no pair of two different texts is left.

    Source:
        `ParaphraseMiningEvaluator` of sentence-transformers, whose numbers these are.

    Deviations:
        Average precision is the mean over known pairs of the precision where each was found. Its interval draws known
        pairs, and takes what else was mined as given.
    """

    primary = "ap"

    def __init__(
        self,
        data: Pairs | str | Path | Sized,
        *,
        more: Texts | str | Path | Sized | None = None,
        neighbors: int = 100,
        keep: int = 500_000,
        precision: str = "auto",
        prompt: str | None = None,
        name: str | None = None,
    ) -> None:
        require_at_least(1, "evaluator", neighbors=neighbors, keep=keep)
        self.data, self.more, self.neighbors, self.keep = data, more, neighbors, keep
        self.precision, self.prompt = precision, prompt
        self._data = data if isinstance(data, Dataset) else Pairs(data, split=TEST)
        self.name = name or set_name(self._data)
        others = more if isinstance(more, Dataset) or more is None else Texts(more, split=TEST)
        distinct = dict.fromkeys([*self._data.unique_texts(), *(others.unique_texts() if others else ())])
        at = {text: i for i, text in enumerate(distinct)}
        pairs = [(at[row.texts[0]], at[other]) for row in self._data for other in row.texts[1 : 1 + row.num_positives]]
        apart = np.array([pair for pair in pairs if pair[0] != pair[1]], dtype=np.int64).reshape(-1, 2)
        self._texts, self._known = list(distinct), np.unique(keys(apart[:, 0], apart[:, 1], len(distinct)))
        self._left_out = {"same_text": len(pairs) - len(apart), "repeated_pair": len(apart) - len(self._known)}
        if not len(self._known):
            raise UserError(
                f"evaluator.data: all {len(pairs)} pairs of {self._data.name} have the same text twice\n"
                "fix: give pairs of different texts"
            )

    def measure(self, encoder: SentenceEncoder) -> list[Finding]:
        """Score an encoder, with the precision at which each known pair was found."""
        vectors, _ = encode_distinct(encoder, self._texts, self.precision, self.prompt)
        distance = comparison(encoder) is nearness
        queries, texts = operands(vectors, distance=distance)
        mined = mine_pairs(queries, texts, self.neighbors, self.keep, str(device_of(encoder)))
        judged = judge(mined, self._known)
        threshold = -math.sqrt(max(0.0, -2 * judged.threshold)) if distance else judged.threshold
        facts = {"texts": len(self._texts), "threshold_f1": threshold}
        found = Finding.of(
            self.name,
            kind="paraphrases",
            measures={"ap": ("mean", "precision"), "f1": ("mean", "f1_share")},
            arrays={"precision": judged.precision, "f1_share": judged.f1_share},
            primary=self.primary,
            unit="known pairs",
            sha256=rows_hash([[self._data.hash, self.neighbors, self.keep], self._texts]),
            where=self._data.name,
            about=described(self._data, self._left_out, **facts),
        )
        return [found]
