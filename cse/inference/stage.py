"""A stage that encodes batches of a table, such as Ray Data gives to its actors: a model that is loaded once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cse.encoder.device import Device, choose
from cse.encoder.model import Encoder
from cse.encoder.prompts import choose_prompt
from cse.encoder.vectors import unit

if TYPE_CHECKING:
    from cse.encoder.precision import Precision


class EncodeBatch:
    """Adds a column of vectors to a batch of rows.

    Args:
        model: A folder, `asset:NAME` or Hub id.
        column: The column of texts; a missing text is an empty one.
        into: The column to add, (n, D) float32.
        device: The device to run on; see `cse.encoder.device`.
        precision: See `Encoder.encode`.
        normalize: Whether to scale each vector to length 1.
        dimensions: Number of first dimensions to keep; see `Encoder.encode`. None: all.
        prompt: The name of the model's prompt that is put before every text. None: its default prompt, if it has one.
    """

    def __init__(
        self,
        *,
        model: str,
        column: str = "text",
        into: str = "vector",
        device: Device = "auto",
        precision: Precision = "auto",
        normalize: bool = False,
        dimensions: int | None = None,
        prompt: str | None = None,
    ) -> None:
        self._encoder = Encoder.load(model).to(choose(device))
        before = choose_prompt(self._encoder.prompts, self._encoder.default_prompt_name, prompt, option="prompt")
        self._options: dict[str, Any] = {"precision": precision, "prompt": before, "dimensions": dimensions}
        self._column, self._into, self._normalize = column, into, normalize

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The batch with its vectors."""
        texts = ["" if text is None else str(text) for text in batch[self._column].tolist()]
        vectors = self._encoder.encode(texts, **self._options)  # (n, D)
        return {**batch, self._into: unit(vectors) if self._normalize else np.ascontiguousarray(vectors)}
