"""A sequence whose items are made one at a time, when they are asked for."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TypeVar, overload

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
