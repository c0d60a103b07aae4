"""Collators make views, and thus batches, from rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray

from cse.augment import render
from cse.batch import Batch, Example
from cse.encoder.prompts import ROLES
from cse.errors import UserError, require_at_least, require_within
from cse.interfaces import Augmentation, Collator, Tokens
from cse.seeding import derive, python_rng

Ids = Sequence[int] | NDArray[np.int32]


class TextViews(Collator):
    """The texts of a row as they are; a row of one text is repeated, and its views differ by dropout (SimCSE).

    Rows may have unequal numbers of hard negatives, or an empty text at the place of one (`Triplets.keep_places`):
    `Batch.view_mask` says which exist.

    Args:
        max_length: Largest number of tokens of a text, template, special tokens and prompt included (SimCSE: 32).
        views: Number of views of a row of one text; 1 is for objectives that do not contrast.
        prompts: The name of the encoder's prompt for each role: `{anchor: query, positive: document, negative:
            document}`. A role that is missing has the encoder's default prompt; null means no prompt. A view with the
            anchor's own text has the anchor's prompt.

    Raises:
        UserError: max_length or views is out of range, or a role is unknown.
    """

    provides = frozenset({"text_id", "row_id", "score", "label", "weight", "relevance", "teacher"})

    def __init__(self, *, max_length: int = 32, views: int = 2, prompts: dict[str, str | None] | None = None) -> None:
        require_at_least(2, "collator", max_length=max_length)
        require_at_least(1, "collator", views=views)
        for role in prompts or {}:
            if role not in ROLES:
                raise UserError(f"collator.prompts names the role {role!r}\nfix: give roles of {', '.join(ROLES)}")
        self.prompts = dict(prompts or {})
        self.max_length = max_length
        self.views = views

    def setup(self, tokens: Tokens, seed: int) -> None:
        """Receive the tokenized texts."""
        self.tokens = tokens

    def needs_dropout(self, example: Example) -> bool:
        """True for rows of one text that is repeated, here or by the data."""
        texts = example.texts * self.views if len(example.texts) == 1 else example.texts[: 1 + example.num_positives]
        return len(texts) > 1 and len(set(texts)) == 1

    def __call__(self, examples: Sequence[Example], epoch: int = 0) -> Batch:
        """Render rows as one batch."""
        rows = self._rows(examples)
        width = max(map(len, rows))
        present = torch.tensor([[v < len(row) and row[v] != "" for v in range(width)] for row in rows])  # (B, V)
        filled = [tuple([text or row[0] for text in row]) + row[:1] * (width - len(row)) for row in rows]
        text_id = torch.tensor([[self.tokens.text_id(text) for text in row] for row in filled])  # (B, V)
        ids, mask = self.tokens.pad(self._tokens(examples, filled, epoch))
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
            weight=_optional([e.weight for e in examples], torch.float32),
            relevance=_optional([e.relevance for e in examples], torch.float32),
            teacher=_optional([e.teacher for e in examples], torch.float32),
        )

    def texts(self, examples: Sequence[Example], *, epoch: int = 0, seed: int = 0) -> list[list[str]]:
        """The texts of every view, row by row, as a run with this seed tokenizes them. It works without `setup`."""
        return [list(row) for row in self._rows(examples)]

    def _rows(self, examples: Sequence[Example]) -> list[tuple[str, ...]]:
        return [e.texts * self.views if len(e.texts) == 1 else e.texts for e in examples]

    def _tokens(self, examples: Sequence[Example], rows: Sequence[tuple[str, ...]], epoch: int) -> Sequence[Ids]:
        """Token ids of every view, row by row."""
        roles = (role for e, row in zip(examples, rows, strict=True) for role in _roles(row, e.num_positives))
        texts = chain.from_iterable(rows)
        return [self.tokens.ids(self.tokens.text_id(text), role) for text, role in zip(texts, roles, strict=True)]


class Masked(Collator):
    """Adds a masked copy of the token ids to the batch of another collator (BERT, arXiv:1810.04805, section 3.1).

    Each position that is neither special, nor of template or prompt, nor padding is chosen with `probability`; of the
    chosen, 80% become the mask token, 10% a random token and 10% stay. Every view has masks of its own.

    Args:
        views: The collator that makes the views.
        probability: Probability that a position is chosen (BERT and SimCSE: 0.15).

    Raises:
        UserError: The probability is outside (0, 1), or the tokenizer has no mask token.
    """

    def __init__(self, *, views: Collator, probability: float = 0.15) -> None:
        require_within("(0, 1)", "collator", probability=probability)
        self.views, self.probability = views, probability
        self.max_length, self.prompts = views.max_length, views.prompts
        self.provides = views.provides | {"masked_ids", "mlm_labels"}

    def setup(self, tokens: Tokens, seed: int) -> None:
        """Receive the tokenized texts and the run's seed."""
        if tokens.mask_id is None:
            raise UserError(
                "collator Masked: the tokenizer of this backbone has no mask token\n"
                "fix: use a masked language model, such as asset:mini"
            )
        self.tokens, self.seed, self.mask_id = tokens, seed, tokens.mask_id
        self.views.setup(tokens, seed)
        ordinary = np.ones(tokens.vocab_size, dtype=bool)
        ordinary[list(tokens.special_ids)] = False
        self.ordinary = ordinary

    def needs_dropout(self, example: Example) -> bool:
        """Same as for the collator of the views."""
        return self.views.needs_dropout(example)

    def __call__(self, examples: Sequence[Example], epoch: int = 0) -> Batch:
        """Render rows as one batch."""
        batch = self.views(examples, epoch)
        ids = batch.input_ids.numpy()
        masked, labels = ids.copy(), np.full_like(ids, -100)
        for row, example in enumerate(examples):
            rng = np.random.default_rng(derive(self.seed, "mask", epoch, example.row_id))
            for view in range(batch.views):
                self._mask(masked[row, view], labels[row, view], int(batch.attention_mask[row, view].sum()), rng)
        return replace(batch, masked_ids=torch.from_numpy(masked), mlm_labels=torch.from_numpy(labels))

    def _mask(self, ids: NDArray[np.int64], labels: NDArray[np.int64], length: int, rng: np.random.Generator) -> None:
        """Mask one view in place."""
        before, after = self.tokens.added
        before += max((len(p) for p in self.tokens.prompt_ids if (*ids[before : before + len(p)],) == p), default=0)
        text = slice(before, max(before, length - after))
        original = ids[text].copy()
        chance, fate = rng.random((2, len(original)))
        chosen = (chance < self.probability) & self.ordinary[original]
        labels[text][chosen] = original[chosen]
        ids[text][chosen & (fate < 0.8)] = self.mask_id
        random = rng.integers(0, self.tokens.vocab_size, len(original))
        ids[text] = np.where(chosen & (fate >= 0.9), random, ids[text])


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
        max_length: Largest number of tokens of a text, template and special tokens included.
        views: Number of views of a row of one text.
        prompts: See `TextViews`; augmentations do not change the prompt.
    """

    def __init__(
        self,
        *,
        augmentations: list[Augmentation],
        anchor_augmentations: list[Augmentation] | None = None,
        negative_augmentations: list[Augmentation] | None = None,
        max_length: int = 32,
        views: int = 2,
        prompts: dict[str, str | None] | None = None,
    ) -> None:
        super().__init__(max_length=max_length, views=views, prompts=prompts)
        self.augmentations = augmentations
        self.anchor_augmentations = augmentations if anchor_augmentations is None else anchor_augmentations
        self.negative_augmentations = negative_augmentations

    def setup(self, tokens: Tokens, seed: int) -> None:
        """Receive the tokenized texts and the run's seed."""
        super().setup(tokens, seed)
        self.seed = seed

    def needs_dropout(self, example: Example) -> bool:
        """False if any view is augmented, since the views are then different texts."""
        return not (self.augmentations or self.anchor_augmentations) and super().needs_dropout(example)

    def texts(self, examples: Sequence[Example], *, epoch: int = 0, seed: int = 0) -> list[list[str]]:
        """The texts of every view, row by row, as a run with this seed augments them."""
        return self._rendered(examples, self._rows(examples), epoch, seed)

    def _rows(self, examples: Sequence[Example]) -> list[tuple[str, ...]]:
        rows = super()._rows(examples)
        return rows if self.negative_augmentations is None else [(*row, row[0]) for row in rows]

    def _tokens(self, examples: Sequence[Example], rows: Sequence[tuple[str, ...]], epoch: int) -> Sequence[Ids]:
        rendered = self._rendered(examples, rows, epoch, self.seed)
        roles = (role for e, row in zip(examples, rows, strict=True) for role in _roles(row, e.num_positives))
        return [self.tokens.encode(text, role) for text, role in zip(chain.from_iterable(rendered), roles, strict=True)]

    def _rendered(
        self, examples: Sequence[Example], rows: Sequence[tuple[str, ...]], epoch: int, seed: int
    ) -> list[list[str]]:
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


def _roles(row: Sequence[str], positives: int) -> Iterator[str]:
    """The role of each view. A view of the anchor's own text is another rendering of the anchor."""
    for view, text in enumerate(row):
        yield "anchor" if text == row[0] else "positive" if view <= positives else "negative"


def _num_positives(examples: Sequence[Example], views: int) -> int:
    counts = {views - 1 if len(e.texts) == 1 else e.num_positives for e in examples}
    if len(counts) > 1:
        raise UserError(f"rows of one batch have {sorted(counts)} positives\nfix: give every row the same number")
    return counts.pop()


def _optional(values: Sequence[float | tuple[float, ...] | None], dtype: torch.dtype) -> torch.Tensor | None:
    return None if any(v is None for v in values) else torch.tensor(values, dtype=dtype)
