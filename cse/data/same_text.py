"""Decides whether two texts count as the same; data checks, mining and feedback share it."""

from __future__ import annotations

import unicodedata


def same_text_key(text: str) -> str:
    """A key that is equal for texts that differ only in case, width, punctuation or white space.

    Those are the differences between copies of one text in different data sets: "A man, running." and "a man running",
    "do n't" and "don't", "back yard" and "backyard". The text is normalized (NFKC) and case-folded; punctuation,
    separators, control characters and free-standing accents are dropped. Symbols stay, so "C++" is not "C" and "$5" is
    not "5", and so do the marks of a letter: "café" is not "cafe".

    Returns:
        The key; empty for a text of punctuation and white space alone.
    """
    return unicodedata.normalize("NFKC", text).casefold().translate(_DROPPED)


class _Dropped(dict[int, int | None]):
    """A table for `str.translate` that is filled when a character first occurs."""

    def __missing__(self, code: int) -> int | None:
        kind = unicodedata.category(chr(code))
        self[code] = value = None if kind[0] in "PZC" or kind == "Sk" else code
        return value


_DROPPED = _Dropped()
