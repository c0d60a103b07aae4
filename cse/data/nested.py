"""Renderings of a text that lost more and more of it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise

from cse.batch import Example
from cse.data.collators import AugmentedViews
from cse.errors import UserError, require_within
from cse.interfaces import Augmentation
from cse.seeding import python_rng


class NestedViews(AugmentedViews):
    """Two views of a text, then renderings without a span of its words, each span inside the next one (ArcCSE).

    The spans of N words have max(1, round(share N)) words, but never all N. Their places are random: that of the
    longest in the text, and that of each shorter one within it. All views have the text id and the prompt of the text.

    Args:
        shares: The share of the words in each span, from small to large (ArcCSE: 0.2 and 0.4).
        filler: What each word of a span becomes: nothing, or a word such as `[MASK]`, BERT's mask token.
        augmentations: What changes the second view. Empty: it is the text itself, and the two differ by dropout.
        max_length: Largest number of tokens of a view, template and special tokens included.
        prompts: See `TextViews`.

    Raises:
        UserError: A share is outside (0, 1), they do not grow, or there are none. In training: a row has several texts.
    """

    def __init__(
        self,
        *,
        shares: Sequence[float] = (0.2, 0.4),
        filler: str = "",
        augmentations: list[Augmentation] | None = None,
        max_length: int | None = 32,
        prompts: dict[str, str | None] | None = None,
    ) -> None:
        views = 2 + len(shares)
        super().__init__(
            augmentations=augmentations or [],
            anchor_augmentations=[],
            max_length=max_length,
            views=views,
            prompts=prompts,
        )
        for i, share in enumerate(shares):
            require_within("(0, 1)", "collator", **{f"shares[{i}]": share})
        if not shares or any(small >= large for small, large in pairwise(shares)):
            raise UserError(f"collator.shares is {list(shares)}\nfix: give one share or more, from small to large")
        self.shares, self.filler = list(shares), filler

    def needs_dropout(self, example: Example) -> bool:
        """True if the second view is not augmented, since it is then the text itself."""
        if len(example.texts) > 1:
            raise UserError(
                f"collator NestedViews renders rows of one text, and a row has {len(example.texts)}\n"
                "fix: give texts alone, or set collator to cse.data.TextViews for rows of a text and renderings of it"
            )
        return super().needs_dropout(example)

    def _rendered(
        self, examples: Sequence[Example], rows: Sequence[tuple[str, ...]], epoch: int, seed: int
    ) -> list[list[str]]:
        two = super()._rendered(examples, [row[:2] for row in rows], epoch, seed)
        rngs = [python_rng(seed, "nested", epoch, example.row_id) for example in examples]
        return [[*row, *self._renderings(row[0], rng)] for row, rng in zip(two, rngs, strict=True)]

    def _renderings(self, text: str, rng: random.Random) -> list[str]:
        """The text without a span of each share."""
        words = text.split()
        start, end, found = 0, len(words), []
        for share in reversed(self.shares):
            size = min(max(1, round(share * len(words))), len(words) - 1, end - start)
            start += rng.randint(0, end - start - size)
            end = start + size
            found.append(
                " ".join([*words[:start], *[self.filler] * (size if self.filler else 0), *words[end:]]) or text
            )
        return found[::-1]
