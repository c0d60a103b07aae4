"""Near texts as the other texts of a row, from single texts alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cse.batch import Example
from cse.encoder.device import Precision
from cse.errors import UserError
from cse.mining.miners import Miner
from cse.mining.refresh import RefreshNegatives, RowsWithNegatives


class NearTexts(RefreshNegatives):
    """Gives rows of one text `k` near texts of the data as positives: pairs to grade, where there are none.

    The miner finds them with the encoder as it is at the first step, and again at every refresh. Objectives that ask a
    teacher about each pair (`PccTuning`, `CosineMSE`, `ListwiseKL`) learn from them; those that contrast take them to
    mean the same, as nearest-neighbor contrastive learning does.

    Args:
        miner: The miner that selects them, such as `TopK` with ranks from 1.
        k: The number of near texts per row.
        epochs: Passes over the data between refreshes, rounded to steps.
        steps: Steps between refreshes, instead of `epochs`.
        precision: The precision of encoding; see `Encoder.encode`.

    Raises:
        UserError: An argument is out of range. In `setup`: a row has several texts, or there are too few texts.
    """

    mines, role = "near", "positive"

    def __init__(
        self,
        *,
        miner: Miner,
        k: int = 1,
        epochs: float = 1.0,
        steps: int | None = None,
        precision: Precision = "auto",
    ) -> None:
        super().__init__(miner=miner, k=k, epochs=epochs, steps=steps, precision=precision)
        self.hard_negatives, self.positives = 0, k

    def setup(self, data: Sequence[Example], steps_per_epoch: int) -> None:
        """Collect the texts."""
        if len(data[0].texts) > 1:
            raise UserError(
                f"negatives is NearTexts, which takes single texts, and a row has {len(data[0].texts)}\n"
                "fix: give data of single texts (cse.data.Texts), or use RefreshNegatives"
            )
        super().setup(data, steps_per_epoch)
        if self._corpus.size <= self.k:
            raise UserError(
                f"negatives.k is {self.k}, and the data has {self._corpus.size} different texts\n"
                "fix: give a smaller k, or more texts"
            )

    def with_negatives(self, chosen: NDArray[np.int64]) -> RowsOfNearTexts:
        """The rows, each with its near texts (M, k).

        Raises:
            UserError: The miner found too few for a row.
        """
        if (chosen < 0).any():
            row = int((chosen < 0).any(1).argmax())
            raise UserError(
                f"negatives.k is {self.k}, and the miner found {(chosen[row] >= 0).sum()} texts near row {row}: "
                f"{self._data[row].texts[0][:60]!r}\nfix: give a smaller k, wider ranks, or more texts"
            )
        return RowsOfNearTexts(self._data, self._corpus.texts, chosen)

    def describe(self) -> str:
        """The miner, and how many texts it adds."""
        return f"{type(self.miner).__name__}, {self.k} near texts per row"


class RowsOfNearTexts(RowsWithNegatives):
    """A data set of single texts, each with its near texts as positives."""

    def _row(self, index: int) -> Example:
        example, near = self.data[index], self.chosen[index].tolist()
        return replace(example, texts=(*example.texts, *(self.texts[i] for i in near)), num_positives=len(near))
