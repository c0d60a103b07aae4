"""Collators that make the views of rows from their texts."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from cse.augment import render
from cse.batch import Batch, Example
from cse.encoder.prompts import ROLES
from cse.encoder.texts import inside, side_by_side
from cse.errors import UserError, require_at_least, require_within
from cse.interfaces import Augmentation, Collator, Tokens
from cse.seeding import python_rng

Rows = Sequence[tuple[str, ...]]


class TextViews(Collator):
    """The texts of a row as they are; a row of one text is repeated, and its views differ by dropout (SimCSE).

    Rows may have unequal numbers of hard negatives, or an empty text at the place of one (`Triplets.keep_places`):
    `Batch.view_mask` says which exist.

    Args:
        max_length: Largest number of tokens of a text, template, special tokens and prompt included (SimCSE: 32). None:
            the least that leaves at most 2 % of the texts cut, up to the encoder's own.
        views: Number of views of a row of one text; 1 is for objectives that do not contrast.
        prompts: The name of the encoder's prompt for each role: `{anchor: query, positive: document, negative:
            document}`. A role that is missing has the encoder's default prompt; null means no prompt. A view with the
            anchor's own text has the anchor's prompt.
        sample: Draw this many of the positives that a row has, at each visit others: stored rewrites (LaCLIP), or the
            questions that a passage answers. The draw depends on (run seed, epoch, row id) alone. Empty positives are
            not drawn; a row with too few has the anchor's text in their places. None: all positives are views.
        keep_original: Whether the anchor's own text is one of those to draw from (LaCLIP); needs `sample`.
    """

    provides = frozenset({"text_id", "row_id", "score", "label", "weight", "relevance", "teacher"})

    def __init__(
        self,
        *,
        max_length: int | None = 32,
        views: int = 2,
        prompts: dict[str, str | None] | None = None,
        sample: int | None = None,
        keep_original: bool = False,
    ) -> None:
        require_at_least(2, "collator", max_length=max_length)  # which takes None
        require_at_least(1, "collator", sample=sample)
        require_within("[1, 1000]", "collator", views=views)  # each is one more text to encode in every row
        if keep_original and sample is None:
            raise UserError(
                "collator.keep_original is true, but positives are not drawn\nfix: set collator.sample, or remove it"
            )
        for role in prompts or {}:
            if role not in ROLES:
                raise UserError(f"collator.prompts names the role {role!r}\nfix: give roles of {', '.join(ROLES)}")
        self.prompts = dict(prompts or {})
        self.max_length = max_length or 0
        self.views = views
        self.sample, self.keep_original = sample, keep_original
        if sample is not None:  # what a row says of each of its texts no longer fits them
            self.provides = self.provides - {"relevance", "teacher"}

    def setup(self, tokens: Tokens, seed: int) -> None:
        self.tokens, self.seed = tokens, seed

    def needs_dropout(self, example: Example) -> bool:
        """True for rows of one text that is repeated, here or by the data, or may be drawn as its own positive."""
        if self.keep_original:
            return True
        texts = example.texts * self.views if len(example.texts) == 1 else example.texts[: 1 + example.num_positives]
        return len(texts) > 1 and len(set(texts)) == 1

    def __call__(self, examples: Sequence[Example], epoch: int = 0) -> Batch:
        rows, tokens = self._rows(examples, epoch, self.seed), self.tokens
        width = max(map(len, rows))
        present = torch.tensor([[v < len(row) and row[v] != "" for v in range(width)] for row in rows])  # (B, V)
        filled = [tuple([text or row[0] for text in row]) + row[:1] * (width - len(row)) for row in rows]
        flat = list(chain.from_iterable(filled))
        numbers = tokens.text_ids(flat)
        rendered = chain.from_iterable(self._rendered(examples, filled, epoch, self.seed))
        roles = (role for e, row in zip(examples, filled, strict=True) for role in _roles(row, self._positives(e)))
        views = zip(flat, numbers.tolist(), rendered, roles, strict=True)
        ids, mask = tokens.pad(
            [tokens.ids(n, role) if new == old else tokens.encode(new, role) for old, n, new, role in views]
        )
        shape = (len(rows), width, ids.shape[1])
        return Batch(
            input_ids=ids.view(shape),
            attention_mask=mask.view(shape),
            num_positives=self._num_positives(examples),
            text_id=torch.from_numpy(numbers).view(len(rows), width),
            view_mask=None if bool(present.all()) else present,
            row_id=torch.tensor([e.row_id for e in examples]),
            score=_optional([e.score for e in examples], torch.float32),
            label=_optional([e.label for e in examples], torch.int64),
            weight=_optional([e.weight for e in examples], torch.float32),
            relevance=_optional([e.relevance for e in examples if self.sample is None], torch.float32),
            teacher=_optional([e.teacher for e in examples if self.sample is None], torch.float32),
        )

    def texts(self, examples: Sequence[Example], *, epoch: int = 0, seed: int = 0) -> list[list[str]]:
        """The texts of every view, row by row, as a run with this seed tokenizes them. It works without `setup`."""
        return self._rendered(examples, self._rows(examples, epoch, seed), epoch, seed)

    def _rows(self, examples: Sequence[Example], epoch: int, seed: int) -> list[tuple[str, ...]]:
        """List the texts of every row before they are changed; the number of each is the id of its view."""
        if self.sample is not None:
            return [self._drawn(e, self.sample, epoch, seed) for e in examples]
        return [e.texts * self.views if len(e.texts) == 1 else e.texts for e in examples]

    def _drawn(self, example: Example, sample: int, epoch: int, seed: int) -> tuple[str, ...]:
        """The anchor, the positives that are drawn, and the hard negatives."""
        anchor, end = example.texts[0], 1 + example.num_positives
        pool = [text for text in example.texts[1:end] if text.strip()] + [anchor] * self.keep_original
        chosen = python_rng(seed, "sample", epoch, example.row_id).sample(pool, min(sample, len(pool)))
        return (anchor, *chosen, *[anchor] * (sample - len(chosen)), *example.texts[end:])

    def _rendered(self, examples: Sequence[Example], rows: Rows, epoch: int, seed: int) -> list[list[str]]:
        """Change the texts of rows, as these views do."""
        return [list(row) for row in rows]

    def _num_positives(self, examples: Sequence[Example]) -> int:
        counts = {self._positives(e) for e in examples}
        if len(counts) > 1:
            raise UserError(f"rows of one batch have {sorted(counts)} positives\nfix: give every row the same number")
        return counts.pop()

    def _positives(self, example: Example) -> int:
        """The number of positives that a row has as views."""
        if self.sample is not None:
            return self.sample
        return self.views - 1 if len(example.texts) == 1 else example.num_positives


class AugmentedViews(TextViews):
    """`TextViews` that changes every view by augmentations, in order and independently of the other views.

    `Batch.text_id` is that of the original text, so that two versions of one text are never negatives of each other.

    Args:
        augmentations: The augmentations, in the order in which they are applied.
        anchor_augmentations: The augmentations of the anchor, view 0; an empty list leaves it as it is (ESimCSE). None:
            the same as for the other views.
        negative_augmentations: The augmentations that make one more hard negative of the anchor's text, the row's last
            view (SNCSE: `Negation`). Its text id is that of the anchor, so that it is never an in-batch negative.
            None: no such view.
        max_length: See `TextViews`.
        views: Number of views of a row of one text.
        prompts: See `TextViews`; augmentations do not change the prompt.
    """

    def __init__(
        self,
        *,
        augmentations: list[Augmentation],
        anchor_augmentations: list[Augmentation] | None = None,
        negative_augmentations: list[Augmentation] | None = None,
        max_length: int | None = 32,
        views: int = 2,
        prompts: dict[str, str | None] | None = None,
    ) -> None:
        super().__init__(max_length=max_length, views=views, prompts=prompts)
        self.augmentations = augmentations
        self.anchor_augmentations = augmentations if anchor_augmentations is None else anchor_augmentations
        self.negative_augmentations = negative_augmentations

    def needs_dropout(self, example: Example) -> bool:
        """False if any view is augmented, since the views are then different texts."""
        return not (self.augmentations or self.anchor_augmentations) and super().needs_dropout(example)

    def _rows(self, examples: Sequence[Example], epoch: int, seed: int) -> list[tuple[str, ...]]:
        rows = super()._rows(examples, epoch, seed)
        return rows if self.negative_augmentations is None else [(*row, row[0]) for row in rows]

    def _rendered(self, examples: Sequence[Example], rows: Rows, epoch: int, seed: int) -> list[list[str]]:
        rendered = [list(row) for row in rows]
        added = None if self.negative_augmentations is None else -1  # the view that they make
        parts = [(self.anchor_augmentations, slice(0, 1)), (self.augmentations, slice(1, added))]
        parts += [(self.negative_augmentations, slice(-1, None))] if self.negative_augmentations is not None else []
        for augmentations, views in parts:
            where = [(row, view) for row, texts in enumerate(rows) for view in range(len(texts))[views]]
            rngs = [python_rng(seed, "augment", epoch, examples[row].row_id, view) for row, view in where]
            texts = render(augmentations, [rows[row][view] for row, view in where], rngs)
            for (row, view), text in zip(where, texts, strict=True):
                rendered[row][view] = text
        return rendered


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


def text_part(tokens: Tokens, ids: NDArray[np.int64], length: int) -> slice:
    """The place of a text among the ids (L,) of a row of `length` tokens, without special ones, template and prompt."""
    before, after = tokens.added
    before += max((len(p) for p in tokens.prompt_ids if (*ids[before : before + len(p)],) == p), default=0)
    return slice(before, max(before, length - after))


def _roles(row: Sequence[str], positives: int) -> Iterator[str]:
    """The role of each view. A view of the anchor's own text is another rendering of the anchor."""
    for view, text in enumerate(row):
        yield "anchor" if text == row[0] else "positive" if view <= positives else "negative"


def _optional(values: Sequence[float | tuple[float, ...] | None], dtype: torch.dtype) -> torch.Tensor | None:
    return None if not values or any(v is None for v in values) else torch.tensor(values, dtype=dtype)


class Halves(TextViews):
    """Three views of a text: the whole, its first half and its second half, as CompCSE composes them.

    A text of n words has a first half of (n + 1) / 2 words, rounded down; a text of one word is its own halves. The
    halves have the text id of the whole, and its prompt.

    Args:
        max_length: Largest number of tokens of a view, template and special tokens included.
        prompts: See `TextViews`.

    Raises:
        UserError: max_length is out of range, or a role is unknown. In training: a row has several texts.

    Deviations:
        The authors of CompCSE cut at the root of a discourse tree, by a trained parser. Rows of three texts (the whole
        and two parts of your own) are read by `TextViews`.
    """

    def __init__(self, *, max_length: int | None = 32, prompts: dict[str, str | None] | None = None) -> None:
        super().__init__(max_length=max_length, views=3, prompts=prompts)

    def needs_dropout(self, example: Example) -> bool:
        """False: the views are different texts."""
        if len(example.texts) > 1:
            raise UserError(
                f"collator Halves cuts rows of one text, and a row has {len(example.texts)}\n"
                "fix: give texts alone, or set collator to cse.data.TextViews for rows of a text and its two parts"
            )
        return False

    def _rendered(self, examples: Sequence[Example], rows: Rows, epoch: int, seed: int) -> list[list[str]]:
        return [[row[0], *halves(row[0])] for row in rows]


def halves(text: str) -> tuple[str, str]:
    """The first and the second half of a text's words, the first one longer by a word if their number is odd."""
    words = text.split()
    cut = (len(words) + 1) // 2
    return " ".join(words[:cut]), " ".join(words[cut:]) or text


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

    def _rendered(self, examples: Sequence[Example], rows: Rows, epoch: int, seed: int) -> list[list[str]]:
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
