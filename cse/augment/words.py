"""Augmentations of single words."""

from __future__ import annotations

import random

from cse.errors import require_at_least, require_within
from cse.interfaces import Augmentation


class WordDeletion(Augmentation):
    """Each word is left out with a probability; a text of which nothing is left stays whole.

    SimCSE compares it with dropout as a source of views (arXiv:2104.08821, table 1). White space divides words.

    Args:
        probability: Probability that a word is left out.

    Raises:
        UserError: It is outside (0, 1).
    """

    def __init__(self, *, probability: float) -> None:
        require_within("(0, 1)", "WordDeletion", probability=probability)
        self.probability = probability

    def __call__(self, text: str, rng: random.Random) -> str:
        """The text without the words that fell out."""
        kept = [word for word in text.split() if rng.random() >= self.probability]
        return " ".join(kept) or text


class WordReordering(Augmentation):
    """Words change places: near ones, or all.

    Word i is sorted by i + U[0, distance + 1), so that none moves farther than `distance` (Lample et al., ICLR 2018,
    arXiv:1711.00043, section 2.3). Without a distance any order is as likely as any other, which is ConSERT's token
    shuffling (arXiv:2105.11741, section 3.2) on words.

    Args:
        distance: The farthest that a word may move (Lample et al.: 3). None: anywhere.

    Raises:
        UserError: The distance is below 1.

    Deviations:
        ConSERT shuffles the position ids of sub-words inside the encoder, special tokens included.
    """

    def __init__(self, *, distance: int | None = 3) -> None:
        require_at_least(1, "WordReordering", distance=distance)
        self.distance = distance

    def __call__(self, text: str, rng: random.Random) -> str:
        """The same words in another order."""
        words = text.split()
        reach = len(words) if self.distance is None else self.distance + 1
        start = 0 if self.distance is None else 1
        keys = [start * i + reach * rng.random() for i in range(len(words))]
        return " ".join(words[i] for i in sorted(range(len(words)), key=keys.__getitem__))


class WordRepetition(Augmentation):
    """Some words are said twice, so that length stops telling positives from negatives (ESimCSE).

        n ~ U{0, ..., max(2, int(rate N))};  n of the N words, drawn without replacement, are each repeated on the spot

    Wu et al., COLING 2022, arXiv:2109.04380, equations 3 and 4.

    Args:
        rate: Largest share of words to repeat (ESimCSE: 0.32).

    Raises:
        UserError: It is outside (0, 1).

    Deviations:
        Words, not sub-words, so that it is the same whatever the tokenizer. n is N at most.
    """

    def __init__(self, *, rate: float = 0.32) -> None:
        require_within("(0, 1)", "WordRepetition", rate=rate)
        self.rate = rate

    def __call__(self, text: str, rng: random.Random) -> str:
        """The text with some words twice."""
        words = text.split()
        count = min(len(words), rng.randint(0, max(2, int(self.rate * len(words)))))
        twice = set(rng.sample(range(len(words)), count))
        return " ".join(word for i, own in enumerate(words) for word in [own] * (2 if i in twice else 1))
