"""Collators: how rows become views."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cse.batch import Batch, Example
from cse.errors import UserError
from cse.interfaces import Collator
from cse.tokens import TokenStore


class TextViews(Collator):
    """The texts of a row as they are; a row of one text is repeated, and its views differ by dropout (SimCSE).

    Rows may have unequal numbers of hard negatives: `Batch.view_mask` says which exist.

    Args:
        max_length: Most tokens of a text, template and special tokens included (SimCSE: 32).
        views: How often a row of one text is repeated.

    Raises:
        UserError: max_length or views is out of range.
    """

    provides = frozenset({"text_id", "row_id", "score", "label"})

    def __init__(self, *, max_length: int = 32, views: int = 2) -> None:
        if max_length < 2:
            raise UserError(f"collator.max_length is {max_length}; give 2 or more (SimCSE: 32)")
        if views < 2:
            raise UserError(f"collator.views is {views}; a contrast needs 2 or more views of a text")
        self.max_length = max_length
        self.views = views

    def setup(self, tokens: TokenStore, seed: int) -> None:
        """Receive the tokenised texts."""
        self.tokens = tokens

    def needs_dropout(self, example: Example) -> bool:
        """True for rows of one text."""
        return len(example.texts) == 1

    def __call__(self, examples: Sequence[Example], epoch: int = 0) -> Batch:
        """Render rows as one batch."""
        rows = [e.texts * self.views if len(e.texts) == 1 else e.texts for e in examples]
        width = max(map(len, rows))
        present = torch.tensor([[v < len(row) for v in range(width)] for row in rows])  # (B, V)
        filled = [row + row[:1] * (width - len(row)) for row in rows]
        text_id = torch.tensor([[self.tokens.text_id(text) for text in row] for row in filled])  # (B, V)
        ids, mask = self.tokens.pad([self.tokens.ids(int(i)) for i in text_id.flatten()])
        shape = (len(rows), width, ids.shape[1])
        return Batch(
            input_ids=ids.view(shape),
            attention_mask=mask.view(shape),
            num_positives=_num_positives(examples, self.views),
            text_id=text_id,
            view_mask=None if bool(present.all()) else present,
            row_id=torch.tensor([e.row_id for e in examples]),
            score=_optional([e.score for e in examples], torch.float32),
            label=_optional([e.label for e in examples], torch.int64),
        )


def _num_positives(examples: Sequence[Example], views: int) -> int:
    counts = {views - 1 if len(e.texts) == 1 else e.num_positives for e in examples}
    if len(counts) > 1:
        raise UserError(f"rows of one batch have {sorted(counts)} positives; give every row the same number")
    return counts.pop()


def _optional(values: Sequence[float | int | None], dtype: torch.dtype) -> torch.Tensor | None:
    return None if any(v is None for v in values) else torch.tensor(values, dtype=dtype)
