"""Augmentation by typing errors."""

from __future__ import annotations

import random

from cse.errors import require_within
from cse.interfaces import Augmentation

ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")  # rows of keys, each half a key to the right of the one above


class CharacterNoise(Augmentation):
    """Mistypes letters: a letter is left out, doubled, swapped with the next one, or replaced by a neighboring key.

    The four errors are equally likely. If one is impossible (the last letter has no next one, and a letter that is not
    on a QWERTY keyboard has no neighbors), the letter is left out. Digits, punctuation and spaces stay. A word keeps at
    least one character.

    Args:
        probability: Probability that a letter is mistyped.

    Raises:
        UserError: The probability is outside (0, 1).
    """

    def __init__(self, *, probability: float = 0.05) -> None:
        require_within("(0, 1)", "CharacterNoise", probability=probability)
        self.probability = probability

    def __call__(self, text: str, rng: random.Random) -> str:
        """The text with typing errors."""
        return " ".join(self._word(word, rng) or word for word in text.split())

    def _word(self, word: str, rng: random.Random) -> str:
        letters, typed = list(word), []
        at = 0
        while at < len(letters):
            letter, at = letters[at], at + 1
            if not letter.isalpha() or rng.random() >= self.probability:
                typed.append(letter)
                continue
            error = rng.choice(("omit", "double", "swap", "neighbor"))
            if error == "double":
                typed += [letter, letter]
            elif error == "swap" and at < len(letters) and letters[at].isalpha():
                typed += [letters[at], letter]
                at += 1
            elif error == "neighbor" and letter.lower() in NEIGHBORS:
                key = rng.choice(NEIGHBORS[letter.lower()])
                typed.append(key.upper() if letter.isupper() else key)
        return "".join(typed)


def _neighbors() -> dict[str, str]:
    """The keys that touch the key of each letter."""
    places = {key: (row, column + row / 2) for row, keys in enumerate(ROWS) for column, key in enumerate(keys)}
    return {
        key: "".join(
            other for other, (r, c) in places.items() if other != key and abs(r - row) <= 1 and abs(c - column) <= 1
        )
        for key, (row, column) in places.items()
    }


NEIGHBORS = _neighbors()
