"""Long texts in overlapping windows: the vector of a text is the mean of those of its windows, by their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cse.encoder.vectors import unit
from cse.errors import UserError


@dataclass(frozen=True, slots=True)
class Windows:
    """The windows of n texts.

    A window has what the tokenizer adds to every text, the prompt, and as many tokens of the text as then fit. A text
    that fits as a whole is one window, as it is. There is no last window of tokens that were all in the one before.

    Attributes:
        rows: The token ids of each window.
        text: (W,) the number of the text of each window.
        weight: (W,) the number of tokens of the text in each window.
        texts: n.

    Deviations:
        ClipMD (idan0405/ClipMD, ClipMDModel.py:35-82) takes the plain mean, adds a last window even if its tokens were
        all seen, and gives windows no special tokens of their own.
    """

    rows: list[list[int]]
    text: NDArray[np.int64]
    weight: NDArray[np.float32]
    texts: int

    @classmethod
    def whole(cls, rows: list[list[int]]) -> Windows:
        """One window for each text, of which these are the token ids."""
        return cls(rows, np.arange(len(rows)), np.ones(len(rows), dtype=np.float32), len(rows))

    @classmethod
    def cut(
        cls,
        rows: Sequence[list[int]],
        step: int,
        *,
        added: tuple[Sequence[int], Sequence[int]],
        prompt: Sequence[int],
        max_length: int,
    ) -> Windows:
        """Cut the token ids of whole texts.

        Args:
            rows: The ids of each text with all that belongs around it, not truncated.
            step: The number of tokens from one window to the next.
            added: The ids that the tokenizer puts before and after every text.
            prompt: The ids of the prompt, which stand between those before and the text.
            max_length: Most ids of a window.

        Raises:
            UserError: Windows of this step would leave tokens out, or overlap by more than half.
        """
        before, after = (list(ids) for ids in added)
        before += list(prompt)
        room = max_length - len(before) - len(after)
        if not (room + 1) // 2 <= step <= room:
            raise UserError(
                f"windows is {step}, and a window holds {room} tokens of a text\n"
                f"fix: give a step from {(room + 1) // 2}, where windows overlap by half, to {room}, where they do not"
            )
        pieces: list[list[int]] = []
        text, weight = [], []
        for number, row in enumerate(rows):
            fits = len(row) <= max_length
            head = [] if fits else before if row[: len(before)] == before else before[: len(added[0])]
            tail = [] if fits else after
            own = row[len(head) : len(row) - len(tail)]
            for start in [0] if fits else starts(len(own), max_length - len(head) - len(tail), step):
                part = own[start : start + max_length - len(head) - len(tail)]
                pieces.append([*head, *part, *tail])
                text.append(number)
                weight.append(max(1, len(part)))
        return cls(pieces, np.array(text, dtype=np.int64), np.array(weight, dtype=np.float32), len(rows))

    def mean(self, vectors: NDArray[np.float32], *, scaled: bool) -> NDArray[np.float32]:
        """The vectors (n, D) of the texts from those of their windows (W, D).

        Args:
            vectors: (W, D).
            scaled: Whether vectors have unit length; those of texts of several windows are then scaled again.
        """
        texts = self.texts
        if len(vectors) == texts:
            return vectors
        total = np.zeros((texts, vectors.shape[1]), dtype=np.float64)
        np.add.at(total, self.text, vectors * self.weight[:, None].astype(np.float64))
        shared = np.bincount(self.text, weights=self.weight, minlength=texts)[:, None]
        found = (total / shared).astype(np.float32)
        several = np.bincount(self.text, minlength=texts) > 1
        if scaled:
            found[several] = unit(found[several])
        found[~several] = vectors[~several[self.text]]  # without the rounding of the mean
        return found


def starts(length: int, size: int, step: int) -> list[int]:
    """The first token of each window of `size` tokens, at least one, until all `length` tokens are in one."""
    return list(range(0, max(1, length - size + step), step))
