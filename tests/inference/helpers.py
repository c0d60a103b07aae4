"""Texts to encode, and a kill in the middle."""

from tests.conftest import WORDS


class Killed(BaseException):
    """As a signal, it is caught by nobody."""


def lines(rows: int) -> list[str]:
    """Texts of 0 to 12 words, each other than the one before."""
    return [" ".join(WORDS[(i * 7 + j) % len(WORDS)] for j in range(i * 5 % 13)) for i in range(rows)]


def kill_after(blocks: int):
    """A progress function that ends everything after so many blocks."""
    calls = iter(range(blocks + 1))

    def progress(rows: int) -> None:
        if next(calls) == blocks:
            raise Killed

    return progress
