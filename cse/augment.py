"""Augmentations: a changed rendering of a text, its randomness from the generator that it is given and nothing else."""

from __future__ import annotations

import random

from cse.errors import UserError
from cse.interfaces import Augmentation


class WordDeletion(Augmentation):
    """Each word is left out with a probability; a text of which nothing is left stays whole.

    SimCSE compares it with dropout as a source of views (arXiv:2104.08821, table 1). White space divides words.

    Args:
        probability: Of a word to be left out.

    Raises:
        UserError: It is outside (0, 1).
    """

    def __init__(self, *, probability: float) -> None:
        if not 0 < probability < 1:
            raise UserError(f"WordDeletion.probability is {probability}; give a number between 0 and 1")
        self.probability = probability

    def __call__(self, text: str, rng: random.Random) -> str:
        """The text without the words that fell out."""
        kept = [word for word in text.split() if rng.random() >= self.probability]
        return " ".join(kept) or text
