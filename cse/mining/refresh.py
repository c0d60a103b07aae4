"""Rows that follow the encoder: negatives or near texts are mined for them at regular intervals during training."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cse import distributed
from cse.batch import Example
from cse.data.datasets import Texts
from cse.data.part import Part
from cse.data.reading.texts import ByRow
from cse.encoder.device import Precision
from cse.encoder.model import Encoder
from cse.encoder.vectors import unit
from cse.errors import UserError, require_at_least, require_positive
from cse.interfaces import RowSource
from cse.mining.corpus import Corpus
from cse.mining.miners import Miner, mine

log = logging.getLogger("cse")


class RefreshNegatives(RowSource):
    """Gives the rows negatives that a miner finds with the encoder under training (ANCE, arXiv:2007.00808, section 4).

    At the first step, and every `epochs` or `steps` after it, all texts are encoded without dropout, anchors behind
    their prompt and all others behind that of negatives, and up to `k` mined negatives follow each row's own. Rows of
    one text are followed by it as their positive, to be told apart by dropout or augmentation. The negatives that rows
    have between two refreshes are part of the run's state.

    Args:
        miner: The miner that selects the negatives.
        k: The most mined negatives per row.
        epochs: Passes over the data between refreshes, rounded to steps.
        steps: Steps between refreshes, instead of `epochs`.
        pool: A file of texts, asset or Hub id to select from; see `cse.data.Texts`. None: the texts of the data, except
            anchors that have a positive of their own.
        precision: The precision of encoding; see `Encoder.encode`.

    Deviations:
        ANCE mines in another process while training continues, with an encoder that lags behind; here training waits.
    """

    mines, role = "negatives", "negative"

    def __init__(
        self,
        *,
        miner: Miner,
        k: int = 1,
        epochs: float = 1.0,
        steps: int | None = None,
        pool: str | None = None,
        precision: Precision = "auto",
    ) -> None:
        require_at_least(1, "negatives", k=k, steps=steps)
        require_positive("negatives", epochs=epochs)
        self.miner, self.k, self.epochs, self.steps, self.precision = miner, k, epochs, steps, precision
        self.hard_negatives = k
        self.chosen: NDArray[np.int64] | None = None  # (M, k) numbers of texts, as mined last
        self._pool_texts = Texts(pool).unique_texts() if pool else None

    def setup(self, data: Sequence[Example], steps_per_epoch: int) -> None:
        """Collect the texts to select from, of which none is held out of training."""
        pool = self._pool_texts
        if pool is not None and isinstance(data, Part):
            pool = [text for text in pool if data.keeps(text)]
        self._data, self._corpus = data, Corpus(data, pool)
        self.interval = self.steps or max(1, round(self.epochs * steps_per_epoch))

    def texts(self) -> Sequence[str]:
        """Every text that can be mined."""
        return self._corpus.texts

    def widest(self) -> Sequence[Example]:
        """The rows with `k` arbitrary mined texts each."""
        return self.with_negatives(np.zeros((len(self._data), self.k), dtype=np.int64))

    def rows(self, step: int, encoder: Encoder) -> tuple[Sequence[Example], int]:
        """The rows with their mined texts, which are mined first if that is due at this step."""
        due = step % self.interval == 0
        if due or self.chosen is None:
            self.chosen = self.mine(encoder, step)
        return self.with_negatives(self.chosen), step - step % self.interval + self.interval

    def state(self) -> dict[str, Tensor]:
        """The negatives that were mined last: they depend on the encoder as it was then."""
        return {} if self.chosen is None else {"negatives": torch.from_numpy(self.chosen)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take the negatives that were mined last."""
        if "negatives" in state:
            self.chosen = state["negatives"].numpy()

    def describe(self) -> str:
        """The miner, and how many negatives it adds."""
        return f"{type(self.miner).__name__}, {self.hard_negatives} more per row, mined again as the encoder learns"

    def mine(self, encoder: Encoder, step: int) -> NDArray[np.int64]:
        """The negatives (M, k) of every row, as numbers of texts. Each process mines a share and receives all."""
        corpus, before, prompt = self._corpus, self.prompts.get("anchor", ""), self.prompts.get(self.role, "")
        vectors = _shared_vectors(encoder, corpus.texts, self.precision, prompt)
        anchors = None if before == prompt else _shared_vectors(encoder, corpus.anchor_texts, self.precision, before)
        self.miner.setup(vectors[: corpus.size], str(encoder.device))
        share = -(-len(self._data) // distributed.world_size())
        first = min(distributed.rank() * share, len(self._data))
        share_of_rows = range(first, min(first + share, len(self._data)))
        own = mine(self.miner, corpus, vectors, self.k, share_of_rows, anchors=anchors).rows
        chosen = _gathered(own, share, encoder)[: len(self._data)]
        if not distributed.rank():
            log.info("%-9s  mined before step %d: %.2f per row", self.mines, step + 1, (chosen >= 0).sum(1).mean())
        return chosen

    def with_negatives(self, chosen: NDArray[np.int64]) -> Sequence[Example]:
        """The rows, each with its own of the chosen negatives (M, k)."""
        return RowsWithNegatives(self._data, self._corpus.texts, chosen)


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
        self, *, miner: Miner, k: int = 1, epochs: float = 1.0, steps: int | None = None, precision: Precision = "auto"
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


class RowsWithNegatives(ByRow[Example]):
    """A data set with mined negatives after those of each row. `chosen` (M, k) are numbers of `texts`; -1 is none."""

    def __init__(self, data: Sequence[Example], texts: Sequence[str], chosen: NDArray[np.int64]) -> None:
        self.data, self.texts, self.chosen = data, texts, chosen

    def __len__(self) -> int:
        return len(self.data)

    def _row(self, index: int) -> Example:
        example = self.data[index]
        texts = example.texts if len(example.texts) > 1 else example.texts * 2
        return replace(example, texts=(*texts, *(self.texts[i] for i in self.chosen[index].tolist() if i >= 0)))


class RowsOfNearTexts(RowsWithNegatives):
    """A data set of single texts, each with its near texts as positives."""

    def _row(self, index: int) -> Example:
        example, near = self.data[index], self.chosen[index].tolist()
        return replace(example, texts=(*example.texts, *(self.texts[i] for i in near)), num_positives=len(near))


def _shared_vectors(encoder: Encoder, texts: Sequence[str], precision: Precision, prompt: str) -> NDArray[np.float32]:
    """The unit vectors (T, D) of the texts; each process encodes a share."""
    share = -(-len(texts) // distributed.world_size())
    first = distributed.rank() * share
    own = unit(encoder.encode(texts[first : first + share], precision=precision, prompt=prompt))
    return _gathered(own, share, encoder)[: len(texts)]


def _gathered(own: NDArray[Any], share: int, encoder: Encoder) -> NDArray[Any]:
    """The rows of all processes; each process pads its rows to the size of a share."""
    filled = np.concatenate([own, np.zeros((share - len(own), *own.shape[1:]), dtype=own.dtype)])
    with torch.no_grad():
        every: NDArray[Any] = distributed.gather(torch.from_numpy(filled).to(encoder.device)).cpu().numpy()
    return every
