"""Templates by view: the views of a row in other templates than that of the encoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cse.batch import Batch, Example
from cse.errors import UserError
from cse.interfaces import Collator, Tokens

FIX = "write templates that are equally long before and after the text, or leave out masks and spans"


class InTemplates(Collator):
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
        self.views, self.templates = views, templates
        self.max_length, self.prompts, self.provides = views.max_length, views.prompts, views.provides

    def setup(self, tokens: Tokens, seed: int) -> None:
        """Receive the tokenized texts and the run's seed."""
        self.views.setup(tokens, seed)
        self.tokens, self.own = tokens, tokens.added_in(None)
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
        """Whether every template has as many ids before and after the text as the encoder's."""
        return all(tuple(map(len, ids)) == tuple(map(len, self.own)) for ids in self.ids)

    def needs_dropout(self, example: Example) -> bool:
        """Whether rows such as this one have views that differ by dropout only: those in the encoder's template."""
        return self.views.needs_dropout(example) and None in self.templates

    def __call__(self, examples: Sequence[Example], epoch: int = 0) -> Batch:
        """Render rows as one batch."""
        batch = self.views(examples, epoch)
        tensors = batch.tensors()
        if not self.even:
            return batch.with_tensors(tensors | self._laid_out(batch))
        for name in tensors.keys() & {"input_ids", "masked_ids"}:
            tensors[name] = self._rendered(tensors[name], batch.attention_mask)
        return batch.with_tensors(tensors)

    def _laid_out(self, batch: Batch) -> dict[str, Tensor]:
        """Ids and mask (B, V, L) in templates that are not equally long."""
        (before, after), rows = self.own, []
        for ids, mask in zip(batch.input_ids, batch.attention_mask, strict=True):
            for view, (own, length) in enumerate(zip(ids.tolist(), mask.sum(-1).tolist(), strict=True)):
                first, last = self.ids[view - 1] if 0 < view <= len(self.ids) else self.own
                rows.append([*first, *own[len(before) : length - len(after)], *last])
        ids, mask = self.tokens.pad(rows)
        return {
            name: t.view(len(batch.input_ids), batch.views, -1)
            for name, t in (("input_ids", ids), ("attention_mask", mask))
        }

    def _rendered(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The ids (B, V, L) in the templates of their views."""
        ids, lengths = ids.clone(), mask.sum(-1, keepdim=True)  # (B, V, 1)
        for view, sides in enumerate(self.ids[: ids.shape[1] - 1], 1):
            before, after = (torch.tensor(side, dtype=ids.dtype).expand(len(ids), -1) for side in sides)
            end = lengths[:, view] - after.shape[1] + torch.arange(after.shape[1])  # (B, number of ids after)
            ids[:, view, : before.shape[1]] = before
            ids[:, view] = ids[:, view].scatter(1, end, after)
        return ids


def require_even(views: Collator, user: str) -> None:
    """Check that all views have the text where the encoder's template has it, once they are set up.

    Raises:
        UserError: Some template is longer or shorter, so that `user`, a collator around it, would look elsewhere.
    """
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
