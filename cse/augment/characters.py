"""Augmentations by typing errors."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal

from cse.errors import UserError, require_within
from cse.interfaces import Augmentation

Edit = Literal["swap", "omit", "insert", "neighbor", "substitute", "look_alike"]
EDITS: tuple[Edit, ...] = ("swap", "omit", "insert", "neighbor", "substitute", "look_alike")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
ALIKE = ("0oOQ", "1lI", "2zZ", "5sS", "6bG", "8B", "9gq", "uv", "ce", "nh", "mn", "ij", "ft")  # to a scanner
ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")  # rows of keys, each half a key to the right of the one above
_PLACES = {key: (row, column + row / 2) for row, keys in enumerate(ROWS) for column, key in enumerate(keys)}
NEIGHBORS = {  # the keys that touch the key of each letter
    key: "".join(k for k, (r, c) in _PLACES.items() if k != key and abs(r - row) <= 1 and abs(c - column) <= 1)
    for key, (row, column) in _PLACES.items()
}


class CharacterNoise(Augmentation):
    """Mistypes letters: a letter is left out, doubled, swapped with the next one, or replaced by a neighboring key.

    The four errors are equally likely. If one is impossible (the last letter has no next one, and a letter that is not
    on a QWERTY keyboard has no neighbors), the letter is left out. Digits, punctuation and spaces stay. A word keeps at
    least one character.

    Args:
        probability: Probability that a letter is mistyped.
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


class CharacterEdit(Augmentation):
    """Changes one letter of a text, which is drawn, by one of several edits (PEARL, arXiv:2401.10407, section 3.2).

        swap         it changes places with the next letter
        omit         it is left out
        insert       a random letter is put before it
        neighbor     it becomes a neighboring key of a QWERTY keyboard
        substitute   it becomes a random letter
        look_alike   it becomes a letter or digit that a scanner takes it for

    An edit is drawn among those that are possible at the letter. Unlike `CharacterNoise`, which may leave a short text
    as it is, it changes every text that has a letter with a possible edit.

    Args:
        edits: The edits to draw from.

    Deviations:
        The authors' program edits a letter in each of up to 30% of the words, and at least in one.
    """

    def __init__(self, *, edits: Sequence[Edit] = EDITS) -> None:
        if not edits or not set(edits) <= set(EDITS):
            raise UserError(f"CharacterEdit.edits is {list(edits)}\nfix: give one or more of {', '.join(EDITS)}")
        self.edits = tuple(edits)

    def __call__(self, text: str, rng: random.Random) -> str:
        """The text with one letter changed."""
        places = [i for i, letter in enumerate(text) if letter.isalnum()]
        rng.shuffle(places)
        for at in places:
            edits = list(self.edits)
            rng.shuffle(edits)
            for edit in edits:
                changed = self._edited(text, at, edit, rng)
                if changed.strip() and changed != text:
                    return changed
        return text

    @staticmethod
    def _edited(text: str, at: int, edit: Edit, rng: random.Random) -> str:
        """The text with an edit at a letter; the text itself if the edit is impossible there."""
        before, letter, after = text[:at], text[at], text[at + 1 :]
        if edit == "omit":
            return before + after
        if edit == "swap":
            return before + after[0] + letter + after[1:] if after[:1].isalnum() else text
        alike = "".join(group for group in ALIKE if letter in group).replace(letter, "")
        choices = {"neighbor": NEIGHBORS.get(letter.lower(), ""), "look_alike": alike}.get(edit, LETTERS)
        if not choices:
            return text
        new = rng.choice(choices)
        new = new.upper() if letter.isupper() and edit != "look_alike" else new
        return before + new + (letter if edit == "insert" else "") + after
