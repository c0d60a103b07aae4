"""Augmentations on many texts at once: for those that are cheaper so, and for those that are not."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from cse.interfaces import Augmentation


@runtime_checkable
class Batched(Protocol):
    """What an augmentation may have besides `__call__`, where many texts at once are cheaper than one by one."""

    def batch(self, texts: Sequence[str], rngs: Sequence[random.Random]) -> list[str]:
        """The changed texts; text i by generator i alone."""
        ...


def apply(augmentation: Augmentation, texts: Sequence[str], rngs: Sequence[random.Random]) -> list[str]:
    """What one augmentation makes of texts, each by its own generator."""
    if isinstance(augmentation, Batched):
        return augmentation.batch(texts, rngs)
    return [augmentation(text, rng) for text, rng in zip(texts, rngs, strict=True)]


def render(augmentations: Sequence[Augmentation], texts: Sequence[str], rngs: Sequence[random.Random]) -> list[str]:
    """What augmentations, one after another, make of texts, each by its own generator."""
    result = list(texts)
    for augmentation in augmentations:
        result = apply(augmentation, result, rngs)
    return result
