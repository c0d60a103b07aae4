"""Augmentations that change single words."""

from __future__ import annotations

import random

from cse.errors import require_at_least, require_within
from cse.interfaces import Augmentation


class WordDeletion(Augmentation):
    """Deletes each word with a given probability. A text of which nothing would be left stays as it is.

    SimCSE compares it with dropout as a source of views (arXiv:2104.08821, table 1).

    Args:
        probability: Probability that a word is deleted.

    Raises:
        UserError: The value is outside (0, 1).
    """

    def __init__(self, *, probability: float) -> None:
        require_within("(0, 1)", "WordDeletion", probability=probability)
        self.probability = probability

    def __call__(self, text: str, rng: random.Random) -> str:
        """The text without the deleted words."""
        kept = [word for word in text.split() if rng.random() >= self.probability]
        return " ".join(kept) or text


class WordReordering(Augmentation):
    """Reorders words, locally or in the whole text.

    Words are sorted by i + U[0, distance + 1), where i is the position, so that no word moves farther than `distance`
    (Lample et al., ICLR 2018, arXiv:1711.00043, section 2.3). Without a distance, all orders are equally likely, as in
    the token shuffling of ConSERT (arXiv:2105.11741, section 3.2), here on words.

    Args:
        distance: The largest number of places that a word may move (Lample et al.: 3). None: no limit.

    Raises:
        UserError: The distance is below 1.

    Deviations:
        ConSERT shuffles the position ids of sub-words inside the encoder, special tokens included.
    """

    def __init__(self, *, distance: int | None = 3) -> None:
        require_at_least(1, "WordReordering", distance=distance)
        self.distance = distance

    def __call__(self, text: str, rng: random.Random) -> str:
        """The text with its words in another order."""
        words = text.split()
        reach = len(words) if self.distance is None else self.distance + 1
        start = 0 if self.distance is None else 1
        keys = [start * i + reach * rng.random() for i in range(len(words))]
        return " ".join(words[i] for i in sorted(range(len(words)), key=keys.__getitem__))


class WordSwap(Augmentation):
    """Exchanges two words of a text, which are drawn (PEARL, arXiv:2401.10407, section 3.2). One word alone stays."""

    def __call__(self, text: str, rng: random.Random) -> str:
        """The text with two words in each other's place."""
        words = text.split()
        if len(words) < 2:
            return text
        i, j = rng.sample(range(len(words)), 2)
        words[i], words[j] = words[j], words[i]
        return " ".join(words)


class WordRepetition(Augmentation):
    """Repeats some words, so that length does not distinguish positives from negatives (ESimCSE).

        n ~ U{0, ..., max(2, int(rate N))};  n of the N words, drawn without replacement, are repeated in place

    Wu et al., COLING 2022, arXiv:2109.04380, equations 3 and 4.

    Args:
        rate: Largest share of words to repeat (ESimCSE: 0.32).

    Raises:
        UserError: The value is outside (0, 1).

    Deviations:
        Words are repeated instead of sub-words, so that the result does not depend on the tokenizer. n is at most N.
    """

    def __init__(self, *, rate: float = 0.32) -> None:
        require_within("(0, 1)", "WordRepetition", rate=rate)
        self.rate = rate

    def __call__(self, text: str, rng: random.Random) -> str:
        """The text with some words repeated."""
        words = text.split()
        count = min(len(words), rng.randint(0, max(2, int(self.rate * len(words)))))
        twice = set(rng.sample(range(len(words)), count))
        return " ".join(word for i, own in enumerate(words) for word in [own] * (2 if i in twice else 1))
