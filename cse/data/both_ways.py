"""The two texts of a row in both orders, for objectives that treat the first and the second differently."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cse.batch import Batch, Example
from cse.errors import UserError
from cse.interfaces import Collator, Tokens


class BothWays(Collator):
    """Makes the views A, B, B, A of the views A, B of another collator (CoT-MAE: each span rebuilds the other).

    Args:
        views: The collator that makes the two views.

    Raises:
        UserError: In training: rows have another number of views than two.
    """

    def __init__(self, *, views: Collator) -> None:
        self.views = views
        self.max_length, self.prompts = views.max_length, views.prompts
        self.provides = views.provides - {"relevance", "teacher"}  # they are of the two texts

    def setup(self, tokens: Tokens, seed: int) -> None:
        """Receive the tokenized texts and the run's seed."""
        self.views.setup(tokens, seed)

    def needs_dropout(self, example: Example) -> bool:
        """Same as for the collator of the two views."""
        return self.views.needs_dropout(example)

    def __call__(self, examples: Sequence[Example], epoch: int = 0) -> Batch:
        """Render rows as one batch."""
        batch = self.views(examples, epoch)
        if batch.views != 2:
            raise UserError(
                f"collator BothWays puts two views in both orders, and rows have {batch.views}\n"
                "fix: give data of pairs, or set collator.views.sample to 1"
            )
        return replace(batch.with_views([0, 1, 1, 0]), num_positives=3, relevance=None, teacher=None)
