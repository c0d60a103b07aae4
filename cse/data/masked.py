"""Masked copies of token ids, for masked language modeling: BERT, CoT-MAE, SimLM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from cse.batch import Batch, Example
from cse.data.collators import text_part
from cse.data.templates import require_even
from cse.errors import UserError, require_within
from cse.interfaces import Collator, Tokens
from cse.seeding import derive


class Masked(Collator):
    """Adds a masked copy of the token ids to the batch of another collator (BERT, arXiv:1810.04805, section 3.1).

    Each position that is neither special, nor of template or prompt, nor padding is chosen with `probability`; of the
    chosen, 80% become the mask token, 10% a random token and 10% stay. Every view has masks of its own.

    Args:
        views: The collator that makes the views.
        probability: Probability that a position is chosen (BERT and SimCSE: 0.15), or a list with one for each view
            (CoT-MAE: 0.3 for the encoder's view and 0.45 for the decoder's), which may be 0.
        whole_words: Whether all tokens of a word are chosen together (CoT-MAE).
        mask_only: Whether all of the chosen become the mask token (SimLM).
        nested: Whether the mask of a view contains that of the view before (SimLM: 0.3 within 0.5). The views of a row
            must then have the same tokens, and probabilities must not fall.

    Raises:
        UserError: A probability is out of range, or the probabilities fall although masks are nested. In training: the
            tokenizer has no mask token, rows have another number of views, or nested views differ.

    Deviations:
        Each word is chosen for itself; BERT's whole-word masking chooses words until a number of tokens is reached.
    """

    def __init__(
        self,
        *,
        views: Collator,
        probability: float | list[float] = 0.15,
        whole_words: bool = False,
        mask_only: bool = False,
        nested: bool = False,
    ) -> None:
        each = probability if isinstance(probability, list) else [probability]
        for one in each:
            require_within("[0, 1)" if isinstance(probability, list) else "(0, 1)", "collator", probability=one)
        if not any(each) or (nested and any(a > b for a, b in pairwise(each))):
            wanted = "one above 0" if not any(each) else "them from small to large, since masks are nested"
            raise UserError(f"collator.probability is {probability}\nfix: give {wanted}")
        self.views, self.probability = views, probability
        self.whole_words, self.mask_only, self.nested = whole_words, mask_only, nested
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
        require_even(self.views, "Masked")
        ordinary = np.ones(tokens.vocab_size, dtype=bool)
        ordinary[list(tokens.special_ids)] = False
        self.ordinary = ordinary

    def needs_dropout(self, example: Example) -> bool:
        """Same as for the collator of the views."""
        return self.views.needs_dropout(example)

    def __call__(self, examples: Sequence[Example], epoch: int = 0) -> Batch:
        """Render rows as one batch."""
        batch = self.views(examples, epoch)
        ids, each = batch.input_ids.numpy(), self._each(batch)
        masked, labels = ids.copy(), np.full_like(ids, -100)
        for row, example in enumerate(examples):
            address = derive(self.seed, "mask", epoch, example.row_id)
            rng = np.random.default_rng(address)
            for view, probability in enumerate(each):
                rng = np.random.default_rng(address) if self.nested else rng  # equal draws: the larger mask has all
                length = int(batch.attention_mask[row, view].sum())
                self._mask(masked[row, view], labels[row, view], length, probability, rng)
        made = replace(batch, masked_ids=torch.from_numpy(masked), mlm_labels=torch.from_numpy(labels))
        return made.without_absent()

    def _each(self, batch: Batch) -> list[float]:
        """The probability of each view."""
        if self.nested and not torch.equal(batch.input_ids, batch.input_ids[:, :1].expand_as(batch.input_ids)):
            raise UserError(
                "collator.nested: masks are nested in views of one text, and the views of a row are different texts\n"
                "fix: remove collator.nested, or give data with one text per row, which is repeated"
            )
        if not isinstance(self.probability, list):
            return [self.probability] * batch.views
        if len(self.probability) != batch.views:
            raise UserError(
                f"collator.probability has {len(self.probability)} numbers, and rows have {batch.views} views\n"
                "fix: give one number for each view, or a single one"
            )
        return self.probability

    def _mask(
        self,
        ids: NDArray[np.int64],
        labels: NDArray[np.int64],
        length: int,
        probability: float,
        rng: np.random.Generator,
    ) -> None:
        """Mask one view in place."""
        text = text_part(self.tokens, ids, length)
        original = ids[text].copy()
        chance, fate = rng.random((2, len(original)))
        if self.whole_words and len(original):  # the first token of a word decides for the word
            first = np.where(self.tokens.continues[original], 0, np.arange(len(original)))
            chance = chance[np.maximum.accumulate(first)]
        chosen = (chance < probability) & self.ordinary[original]
        labels[text][chosen] = original[chosen]
        ids[text][chosen & (self.mask_only | (fate < 0.8))] = self.mask_id
        random = rng.integers(0, self.tokens.vocab_size, len(original))
        ids[text] = np.where(chosen & (fate >= 0.9) & (not self.mask_only), random, ids[text])
