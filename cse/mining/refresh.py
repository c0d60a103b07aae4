"""Hard negatives that follow the encoder: mined anew every so often while it trains."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from cse import distributed
from cse.batch import Example
from cse.errors import UserError
from cse.mining.miners import Miner
from cse.mining.search import Corpus, mine
from cse.mining.vectors import unit

if TYPE_CHECKING:
    from cse.encoder.model import Encoder, Precision

log = logging.getLogger("cse")


class RefreshNegatives:
    """Gives the rows negatives that a miner finds with the encoder under training (ANCE, arXiv:2007.00808, section 4).

    At the first step and every `epochs` or `steps` from then on, all texts are encoded without dropout, and up to `k`
    mined negatives follow each row's own. Rows of one text are followed by it as their positive, to be told apart by
    dropout or augmentation. Which negatives a row has between two refreshes is part of the run's state.

    Args:
        miner: Which chooses.
        k: Mined negatives a row, at most.
        epochs: Passes over the data between refreshes, as a number of steps.
        steps: Steps between refreshes, instead of `epochs`.
        pool: A file of texts, asset or Hub id to choose from; see `cse.data.Texts`. None: the texts of the data, but
            anchors that have a positive of their own.
        precision: As of `Encoder.encode`.

    Raises:
        UserError: An argument is out of range, or the pool cannot be read.

    Deviations:
        ANCE mines in another process while training goes on, with an encoder that lags; here training waits.
    """

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
        if k < 1:
            raise UserError(f"negatives.k is {k}; give 1 or more")
        if not epochs > 0 or (steps is not None and steps < 1):
            raise UserError(f"negatives.epochs is {epochs} and steps {steps}; give more than 0, and 1 or more")
        self.miner, self.k, self.epochs, self.steps, self.precision = miner, k, epochs, steps, precision
        self._pool_texts = _read(pool) if pool else None

    def setup(self, data: Sequence[Example]) -> None:
        """Receive the rows. Called once, before the first refresh."""
        self._data, self._corpus = data, Corpus(data, self._pool_texts)

    @property
    def texts(self) -> list[str]:
        """Every text that a row may have."""
        return self._corpus.texts

    def interval(self, steps_per_epoch: int) -> int:
        """Steps from one refresh to the next."""
        return self.steps or max(1, round(self.epochs * steps_per_epoch))

    def mine(self, encoder: Encoder, step: int) -> NDArray[np.int64]:
        """(M, k) negatives of every row, as numbers of pool texts; each process does its share, and all get all."""
        vectors = _shared_vectors(encoder, self._corpus.texts, self.precision)
        self.miner.setup(vectors[: self._corpus.size])
        share = -(-len(self._data) // distributed.world_size())
        first = min(distributed.rank() * share, len(self._data))
        own = mine(self.miner, self._corpus, vectors, self.k, range(first, min(first + share, len(self._data)))).rows
        chosen = _gathered(own, share, encoder)[: len(self._data)]
        if not distributed.rank():
            log.info("negatives  mined before step %d: %.2f a row", step + 1, (chosen >= 0).sum(1).mean())
        return chosen

    def rows(self, chosen: NDArray[np.int64]) -> RowsWithNegatives:
        """The rows, each with its own of the chosen negatives (M, k)."""
        return RowsWithNegatives(self._data, self._corpus.texts, chosen)

    def rehearsal(self) -> RowsWithNegatives:
        """The rows with as many negatives as they can have, whatever these are."""
        return self.rows(np.zeros((len(self._data), self.k), dtype=np.int64))


class RowsWithNegatives(Sequence[Example]):
    """A data set whose rows have mined negatives after their own: `chosen` (M, k), numbers of `texts`, -1 for none."""

    def __init__(self, data: Sequence[Example], texts: Sequence[str], chosen: NDArray[np.int64]) -> None:
        self.data, self.texts, self.chosen = data, texts, chosen

    def __len__(self) -> int:
        return len(self.data)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        """The row at a position, or the rows of a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        example = self.data[index]
        texts = example.texts if len(example.texts) > 1 else example.texts * 2
        return replace(example, texts=(*texts, *(self.texts[i] for i in self.chosen[index].tolist() if i >= 0)))


def _read(pool: str) -> list[str]:
    from cse.data.datasets import Texts

    return Texts(pool).unique_texts()


def _shared_vectors(encoder: Encoder, texts: Sequence[str], precision: Precision) -> NDArray[np.float32]:
    """(T, D) unit vectors of the texts, of which each process encodes a share."""
    share = -(-len(texts) // distributed.world_size())
    first = distributed.rank() * share
    own = unit(encoder.encode(texts[first : first + share], precision=precision))
    return _gathered(own, share, encoder)[: len(texts)]


def _gathered(own: NDArray[Any], share: int, encoder: Encoder) -> NDArray[Any]:
    """The rows of all processes, each filled up to its share."""
    import torch

    filled = np.concatenate([own, np.zeros((share - len(own), *own.shape[1:]), dtype=own.dtype)])
    with torch.no_grad():
        every: NDArray[Any] = distributed.gather(torch.from_numpy(filled).to(encoder.device)).cpu().numpy()
    return every
