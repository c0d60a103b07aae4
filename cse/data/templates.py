"""Templates by view: the views of a row in other templates than that of the encoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cse.batch import Batch, Example
from cse.errors import UserError
from cse.interfaces import Collator, Tokens


class InTemplates(Collator):
    """Puts the views of another collator into templates of their own, as unsupervised PromptBERT does.

    The anchor, view 0, keeps the encoder's template, in which a checkpoint encodes; view 1 has the first of
    `templates`, view 2 the second, and so on; further views keep the encoder's. A row's ids are unchanged but for those
    of the template, and `{mask}` stands for the mask token, as in `encoder.template`.

    Args:
        views: The collator that makes the views.
        templates: A text with one `{text}` for each view after the anchor.

    Raises:
        UserError: There is no template. In `setup`: a template has more or fewer ids before or after the text than
            the encoder's, or its mask token is elsewhere, so that the encoder would read it at the wrong place.

    Source: kongds/Prompt-BERT, train.py:635-740, whose two templates are equally long as well (models.py:98).
    """

    def __init__(self, *, views: Collator, templates: list[str]) -> None:
        if not templates:
            raise UserError("collator.templates is empty\nfix: give a template, or use the collator of the views alone")
        self.views, self.templates = views, templates
        self.max_length, self.prompts, self.provides = views.max_length, views.prompts, views.provides

    def setup(self, tokens: Tokens, seed: int) -> None:
        """Receive the tokenized texts and the run's seed."""
        self.views.setup(tokens, seed)
        self.ids, own = [tokens.added_in(template) for template in self.templates], tokens.added_in(None)
        for template, ids in zip(self.templates, self.ids, strict=True):
            if _places(ids, tokens.mask_id) != _places(own, tokens.mask_id):
                (before, after), (as_before, as_after) = map(len, ids), map(len, own)
                raise UserError(
                    f"collator.templates has {template!r}, which puts {before} ids before a text and {after} after it, "
                    f"and encoder.template {as_before} and {as_after}, or has the mask token elsewhere\n"
                    "fix: write templates that are equally long before and after the text, with {mask} at one place"
                )

    def needs_dropout(self, example: Example) -> bool:
        """Whether rows such as this one have views that differ by dropout only: no, they differ by template."""
        self.views.needs_dropout(example)  # it may refuse the row
        return False

    def __call__(self, examples: Sequence[Example], epoch: int = 0) -> Batch:
        """Render rows as one batch."""
        batch = self.views(examples, epoch)
        tensors = batch.tensors()
        for name in tensors.keys() & {"input_ids", "masked_ids"}:
            tensors[name] = self._rendered(tensors[name], batch.attention_mask)
        return batch.with_tensors(tensors)

    def _rendered(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The ids (B, V, L) in the templates of their views."""
        ids, lengths = ids.clone(), mask.sum(-1, keepdim=True)  # (B, V, 1)
        for view, sides in enumerate(self.ids[: ids.shape[1] - 1], 1):
            before, after = (torch.tensor(side, dtype=ids.dtype).expand(len(ids), -1) for side in sides)
            end = lengths[:, view] - after.shape[1] + torch.arange(after.shape[1])  # (B, number of ids after)
            ids[:, view, : before.shape[1]] = before
            ids[:, view] = ids[:, view].scatter(1, end, after)
        return ids


def _places(ids: tuple[list[int], list[int]], mask_id: int | None) -> list[list[bool]]:
    """Before and after a text, True where the mask token is."""
    return [[i == mask_id for i in side] for side in ids]
