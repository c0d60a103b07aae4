"""Collators around others: they reorder, mask or mark the views of another collator, or put them into templates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cse.batch import Batch, Example
from cse.data.views.texts import text_part
from cse.encoder.texts import side_by_side
from cse.errors import UserError, require_at_least, require_positive, require_within
from cse.interfaces import Collator, Tokens
from cse.seeding import derive


class Around(Collator):
    """A collator that changes the batches of another one, whose views it takes."""

    def __init__(self, views: Collator) -> None:
        self.views, self.provides = views, views.provides
        self.max_length, self.prompts = views.max_length, views.prompts

    def setup(self, tokens: Tokens, seed: int) -> None:
        self.tokens, self.seed = tokens, seed
        self.views.setup(tokens, seed)

    def needs_dropout(self, example: Example) -> bool:
        """Same as for the collator of the views."""
        return self.views.needs_dropout(example)


class BothWays(Around):
    """Makes the views A, B, B, A of the views A, B of another collator (CoT-MAE: each span rebuilds the other).

    Args:
        views: The collator that makes the two views.

    Raises:
        UserError: In training: rows have another number of views than two.
    """

    def __init__(self, *, views: Collator) -> None:
        super().__init__(views)
        self.provides = views.provides - {"relevance", "teacher"}  # they are of the two texts

    def __call__(self, examples: Sequence[Example], epoch: int = 0) -> Batch:
        batch = self.views(examples, epoch)
        if batch.views != 2:
            raise UserError(
                f"collator BothWays puts two views in both orders, and rows have {batch.views}\n"
                "fix: give data of pairs, or set collator.views.sample to 1"
            )
        return replace(batch.with_views([0, 1, 1, 0]), num_positives=3, relevance=None, teacher=None)


class Masked(Around):
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
        super().__init__(views)
        self.probability, self.whole_words, self.mask_only, self.nested = probability, whole_words, mask_only, nested
        self.provides = views.provides | {"masked_ids", "mlm_labels"}

    def setup(self, tokens: Tokens, seed: int) -> None:
        if tokens.mask_id is None:
            raise UserError(
                "collator Masked: the tokenizer of this backbone has no mask token\n"
                "fix: use a masked language model, such as asset:mini"
            )
        super().setup(tokens, seed)
        self.mask_id = tokens.mask_id
        require_even(self.views, "Masked")
        self.ordinary = np.ones(tokens.vocab_size, dtype=bool)
        self.ordinary[list(tokens.special_ids)] = False

    def __call__(self, examples: Sequence[Example], epoch: int = 0) -> Batch:
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


FIX = "write templates that are equally long before and after the text, or leave out masks and spans"


class InTemplates(Around):
    """Puts the views of another collator into templates of their own, as unsupervised PromptBERT does.

    The anchor, view 0, keeps the encoder's template, in which a checkpoint encodes; view 1 has the first of
    `templates`, view 2 the second, and so on; further views keep the encoder's. A row's ids are unchanged but for those
    of the template, and `{mask}` stands for the mask token, as in `encoder.template`. Where a template is longer than
    the encoder's, its views are longer by as much than `max_length` says.

    Args:
        views: The collator that makes the views.
        templates: A text with one `{text}` for each view after the anchor; null keeps the encoder's for that view.

    Raises:
        UserError: There is no template. In `setup`: a template has its mask token elsewhere than the encoder's, which
            would read it at the wrong place, or, beside a mask token, more or fewer ids before or after the text; or
            templates are not equally long, and the collator of the views masks tokens or marks spans.

    Source: kongds/Prompt-BERT, train.py:635-740, whose two templates are equally long as well (models.py:98).
    """

    def __init__(self, *, views: Collator, templates: list[str | None]) -> None:
        if not templates:
            raise UserError("collator.templates is empty\nfix: give a template, or use the collator of the views alone")
        super().__init__(views)
        self.templates = templates

    def setup(self, tokens: Tokens, seed: int) -> None:
        super().setup(tokens, seed)
        self.own = tokens.added_in(None)
        self.ids = [tokens.added_in(template) for template in self.templates]
        for template, ids in zip(self.templates, self.ids, strict=True):
            asks = any(tokens.mask_id in side for side in (*ids, *self.own))
            if asks and _places(ids, tokens.mask_id) != _places(self.own, tokens.mask_id):
                (before, after), (as_before, as_after) = map(len, ids), map(len, self.own)
                raise UserError(
                    f"collator.templates has {template!r}, which puts {before} ids before a text and {after} after it, "
                    f"and encoder.template {as_before} and {as_after}, or has the mask token elsewhere\n"
                    "fix: write templates that are equally long before and after the text, with {mask} at one place"
                )
        if not self.even and (found := sorted(self.provides & {"masked_ids", "span_mask"})):
            raise UserError(
                f"collator.templates are not as long as encoder.template, and the views have {' and '.join(found)}, "
                f"whose places are those of encoder.template\nfix: {FIX}"
            )

    @property
    def even(self) -> bool:
        """Tell whether every template has as many ids before and after the text as the encoder's."""
        return all(tuple(map(len, ids)) == tuple(map(len, self.own)) for ids in self.ids)

    def needs_dropout(self, example: Example) -> bool:
        """Tell whether rows like this one have views that differ by dropout only: those in the encoder's template."""
        return self.views.needs_dropout(example) and None in self.templates

    def __call__(self, examples: Sequence[Example], epoch: int = 0) -> Batch:
        batch = self.views(examples, epoch)
        tensors = batch.tensors()
        for name in tensors.keys() & {"input_ids", "masked_ids"}:
            tensors[name], tensors["attention_mask"] = self._rendered(tensors[name], batch.attention_mask)
        return batch.with_tensors(tensors)

    def _rendered(self, batch: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Put ids (B, V, L) into the templates of their views; returns ids and mask, whose L may be another."""
        (before, after), rows = self.own, []
        for ids, lengths in zip(batch.tolist(), masks.sum(-1).tolist(), strict=True):
            for view, (own, length) in enumerate(zip(ids, lengths, strict=True)):
                first, last = self.ids[view - 1] if 0 < view <= len(self.ids) else self.own
                rows.append([*first, *own[len(before) : length - len(after)], *last])
        ids, mask = self.tokens.pad(rows)
        return ids.view(*batch.shape[:2], -1), mask.view(*batch.shape[:2], -1)


def require_even(views: Collator, user: str) -> None:
    """Check that all views have the text where the encoder's template has it, once they are set up."""
    inner: object = views
    while isinstance(inner, Collator):
        if isinstance(inner, InTemplates) and not inner.even:
            raise UserError(
                f"collator {user} is around InTemplates, whose templates are not as long as encoder.template\n"
                f"fix: {FIX}"
            )
        inner = getattr(inner, "views", None)


def _places(ids: tuple[list[int], list[int]], mask_id: int | None) -> list[list[bool]]:
    """Before and after a text, True where the mask token is."""
    return [[i == mask_id for i in side] for side in ids]


class RandomSpans(Around):
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
        sizes = list(zip(smallest, largest, strict=False))
        if not sizes or len(smallest) != len(largest) or not all(1 <= low <= high for low, high in sizes):
            raise UserError(
                f"collator.smallest is {list(smallest)} and collator.largest is {list(largest)}\n"
                "fix: give one number for each size in both, integers with 1 <= smallest <= largest"
            )
        super().__init__(views)
        self.smallest, self.largest = list(smallest), list(largest)
        self.per_size, self.alpha, self.beta = per_size, alpha, beta
        self.provides = views.provides | {"span_mask"}

    def setup(self, tokens: Tokens, seed: int) -> None:
        super().setup(tokens, seed)
        require_even(self.views, "RandomSpans")

    def __call__(self, examples: Sequence[Example], epoch: int = 0) -> Batch:
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
