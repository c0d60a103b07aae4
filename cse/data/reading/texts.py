"""Texts that are read block by block, known by a key or by what makes two of them the same text."""

from __future__ import annotations

import hashlib
import unicodedata
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from cse.data.reading.numbering import GrowingArray, fingerprints

T = TypeVar("T", covariant=True)


class ByRow(Sequence[T]):
    """A sequence of known length whose subclass says what is at a place; a slice of it is a list."""

    @abstractmethod
    def _row(self, index: int) -> T:
        """The item at a place from 0 to before the length."""

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        """The item at a place, which counts from the end if it is negative, or the items of a slice."""
        place = range(len(self))[index]
        return [self._row(i) for i in place] if isinstance(place, range) else self._row(place)


BLOCK = 16_384  # texts of a block


class TextStream(Iterable[str]):
    """Texts in a fixed order, which can be read any number of times.

    Args:
        key: A text that differs for other texts, or for another order.
        size: About how many texts there are, repetitions included.
        blocks: A function that reads the texts from the start, as lists.
    """

    def __init__(self, key: str, size: int, blocks: Callable[[], Iterator[list[str]]]) -> None:
        self.key, self.size, self.blocks = key, size, blocks

    def __iter__(self) -> Iterator[str]:
        return chain.from_iterable(self.blocks())


def stream(texts: TextStream | Sequence[str]) -> TextStream:
    """Texts as a stream; the key of a list is a hash of its texts."""
    if isinstance(texts, TextStream):
        return texts

    def blocks() -> Iterator[list[str]]:
        return (list(texts[start : start + BLOCK]) for start in range(0, len(texts), BLOCK))

    digest = hashlib.sha256()
    for block in blocks():
        digest.update(fingerprints(block).tobytes())
    return TextStream(digest.hexdigest(), len(texts), blocks)


def joined(*parts: TextStream | Sequence[str]) -> TextStream:
    """The texts of several streams or lists, one after another."""
    streams = [stream(part) for part in parts if isinstance(part, TextStream) or len(part)]
    if len(streams) == 1:
        return streams[0]
    size = sum(part.size for part in streams)
    return TextStream(
        " ".join(part.key for part in streams), size, lambda: (b for part in streams for b in part.blocks())
    )


class TextWriter:
    """Writes texts that `StoredTexts` reads."""

    def __init__(self, folder: Path) -> None:
        first, second = (folder / name for name in StoredTexts.FILES)
        self._bytes, self._ends, self._end = GrowingArray(first, np.uint8), GrowingArray(second, np.int64), 0
        self._ends.append(np.zeros(1))

    def append(self, texts: Sequence[str]) -> None:
        """Write texts behind the earlier ones."""
        raw = [text.encode() for text in texts]
        ends = self._end + np.cumsum(list(map(len, raw)), dtype=np.int64)
        self._bytes.append(np.frombuffer(b"".join(raw), dtype=np.uint8))
        self._ends.append(ends)
        self._end = int(ends[-1]) if len(ends) else self._end

    def close(self) -> None:
        """Finish the files."""
        self._bytes.close()
        self._ends.close()


class StoredTexts(ByRow[str]):
    """Texts on disk, memory-mapped; another process maps them by itself."""

    FILES = ("texts.npy", "ends.npy")

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._bytes: NDArray[np.uint8] = np.load(folder / self.FILES[0], mmap_mode="r")
        self._ends: NDArray[np.int64] = np.load(folder / self.FILES[1], mmap_mode="r")

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __iter__(self) -> Iterator[str]:
        """The texts one after another, read in blocks."""
        for start in range(0, len(self), BLOCK):
            ends = self._ends[start : start + BLOCK + 1]
            raw, places = self._bytes[ends[0] : ends[-1]].tobytes(), (ends - ends[0]).tolist()
            yield from (raw[first:last].decode() for first, last in pairwise(places))

    def __reduce__(self) -> tuple[type[StoredTexts], tuple[Path]]:
        return type(self), (self._folder,)

    def _row(self, index: int) -> str:
        return self._bytes[self._ends[index] : self._ends[index + 1]].tobytes().decode()


def same_text_key(text: str) -> str:
    """A key that is equal for texts that differ only in case, width, punctuation or white space; empty if that is all.

    Those are the differences between copies of one text in different data sets: "A man, running." and "a man running",
    "do n't" and "don't", "back yard" and "backyard". The text is normalized (NFKC) and case-folded; punctuation,
    separators, control characters and free-standing accents are dropped. Symbols stay, so "C++" is not "C" and "$5" is
    not "5", and so do the marks of a letter: "café" is not "cafe".
    """
    return unicodedata.normalize("NFKC", text).casefold().translate(_DROPPED)


def distinct_key(text: str) -> str:
    """Make the `same_text_key` of a text, or the text itself where that is empty: marks alone still differ."""
    return same_text_key(text) or text


class _Dropped(dict[int, int | None]):
    """A table for `str.translate` that is filled when a character first occurs."""

    def __missing__(self, code: int) -> int | None:
        kind = unicodedata.category(chr(code))
        self[code] = value = None if kind[0] in "PZC" or kind == "Sk" else code
        return value


_DROPPED = _Dropped()
