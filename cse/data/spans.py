"""Collators of spans: those that rows mark in their texts, and random ones of several sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from cse.batch import Batch, Example
from cse.data.collators import TextViews, text_part
from cse.data.templates import require_even
from cse.encoder.texts import inside, side_by_side
from cse.errors import UserError, require_at_least, require_positive
from cse.interfaces import Collator, Tokens
from cse.seeding import derive


class SpanViews(TextViews):
    """The texts of a row as they are, with the spans that the row marks in them (`cse.data.Propositions`).

    A token belongs to a span if it lies within one of its ranges; a span whose tokens were all cut off with the end of
    a long text does not exist. The arguments are those of `TextViews`.

    Args:
        max_length: Largest number of tokens of a text, template, special tokens and prompt included.
        prompts: See `TextViews`.

    Raises:
        UserError: max_length is out of range, or a role is unknown. In training: a row has no spans.
    """

    provides = TextViews.provides | {"span_mask", "span_group"}

    def __init__(self, *, max_length: int | None = 128, prompts: dict[str, str | None] | None = None) -> None:
        super().__init__(max_length=max_length, prompts=prompts)

    def needs_dropout(self, example: Example) -> bool:
        """False: spans that say the same are different words."""
        if example.spans is None:
            raise UserError(
                "collator SpanViews needs rows that mark spans in their texts\n"
                "fix: set data to cse.data.Propositions, or draw spans of plain texts: cse.data.RandomSpans"
            )
        return False

    def __call__(self, examples: Sequence[Example], epoch: int = 0) -> Batch:
        """Render rows as one batch."""
        batch = super().__call__(examples, epoch)
        masks, groups = [], []
        for example in examples:
            for view, spans in enumerate(example.spans or ()):
                role = "positive" if view and example.texts[view] != example.texts[0] else "anchor"
                masks.append(inside(self.tokens.places(example.texts[view], role), spans.ranges))
                groups.append(spans.groups)
        length = batch.input_ids.shape[2]
        mask = side_by_side(masks, length).view(*batch.input_ids.shape[:2], -1, length)
        numbers = np.zeros((len(groups), mask.shape[2]), dtype=np.int64)
        for row, given in zip(numbers, groups, strict=True):
            row[: len(given)] = given
        return replace(batch, span_mask=mask, span_group=torch.from_numpy(numbers).view(mask.shape[:3]))


class RandomSpans(Collator):
    """Adds random spans of several sizes to the views of another collator (COSTA).

        length = smallest + p (largest - smallest), rounded,  p ~ Beta(alpha, beta)

    The place of a span is uniform among the tokens of the text: special tokens, template and prompt are left out. The
    largest length is that of the text if the text is shorter, and a size whose smallest length does not fit gives no
    span. Spans may overlap.

    Args:
        views: The collator that makes the views.
        smallest: Smallest number of tokens of each size: a word, a phrase, a sentence, a paragraph.
        largest: Largest number of tokens of each size.
        per_size: Number of spans of each size (COSTA: 5).
        alpha: Parameter of the Beta law (COSTA: 4).
        beta: Parameter of the Beta law (COSTA: 2, so that long spans are more likely).

    Raises:
        UserError: An argument is out of range.

    Deviations:
        A word of COSTA is one whole word; here it is one to three tokens. The sizes and the law are those of the paper
        as we know them: its program of pre-training is not public.
    """

    def __init__(
        self,
        *,
        views: Collator,
        smallest: Sequence[int] = (1, 4, 16, 64),
        largest: Sequence[int] = (3, 16, 64, 128),
        per_size: int = 5,
        alpha: float = 4.0,
        beta: float = 2.0,
    ) -> None:
        require_at_least(1, "collator", per_size=per_size)
        require_positive("collator", alpha=alpha, beta=beta)
        if not smallest or len(smallest) != len(largest):
            raise UserError(
                f"collator.smallest is {list(smallest)} and collator.largest is {list(largest)}\n"
                "fix: give one number for each size in both"
            )
        if any(not 1 <= low <= high for low, high in zip(smallest, largest, strict=True)):
            raise UserError(
                f"collator.smallest is {list(smallest)} and collator.largest is {list(largest)}\n"
                "fix: give integers with 1 <= smallest <= largest for each size"
            )
        self.views, self.smallest, self.largest = views, list(smallest), list(largest)
        self.per_size, self.alpha, self.beta = per_size, alpha, beta
        self.max_length, self.prompts = views.max_length, views.prompts
        self.provides = views.provides | {"span_mask"}

    def setup(self, tokens: Tokens, seed: int) -> None:
        """Receive the tokenized texts and the run's seed."""
        self.tokens, self.seed = tokens, seed
        self.views.setup(tokens, seed)
        require_even(self.views, "RandomSpans")

    def needs_dropout(self, example: Example) -> bool:
        """Same as for the collator of the views."""
        return self.views.needs_dropout(example)

    def __call__(self, examples: Sequence[Example], epoch: int = 0) -> Batch:
        """Render rows as one batch."""
        batch = self.views(examples, epoch)
        lengths, masks = batch.attention_mask.sum(-1).tolist(), []  # (B, V)
        for row, example in enumerate(examples):
            rng = np.random.default_rng(derive(self.seed, "spans", epoch, example.row_id))
            for view, length in enumerate(lengths[row]):
                part = text_part(self.tokens, batch.input_ids[row, view].numpy(), length)
                masks.append(self._draw(part, batch.input_ids.shape[2], rng))
        length = batch.input_ids.shape[2]
        mask = side_by_side(masks, length).view(*batch.input_ids.shape[:2], -1, length)
        return replace(batch, span_mask=mask).without_absent()

    def _draw(self, part: slice, length: int, rng: np.random.Generator) -> NDArray[np.bool_]:
        """(S, L) spans of the tokens at `part` of a row; a size that does not fit has rows without tokens."""
        room = part.stop - part.start
        share = rng.beta(self.alpha, self.beta, (len(self.smallest), self.per_size))
        chance = rng.random((len(self.smallest), self.per_size))
        low, high = np.array(self.smallest)[:, None], np.array(self.largest)[:, None].clip(max=room)
        size = np.rint(low + share * (high - low)).astype(np.int64)
        start = part.start + np.floor(chance * (room - size + 1)).astype(np.int64)
        size[low[:, 0] > room] = 0
        at = np.arange(length)
        found: NDArray[np.bool_] = (at >= start[..., None]) & (at < (start + size)[..., None])  # (sizes, per size, L)
        return found.reshape(-1, length)
