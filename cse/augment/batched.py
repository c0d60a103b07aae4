"""Applies augmentations to many texts, in one batch if the augmentation supports it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from cse.interfaces import Augmentation


@runtime_checkable
class Batched(Protocol):
    """An augmentation that also changes many texts at once, because this is cheaper than one by one."""

    def batch(self, texts: Sequence[str], rngs: Sequence[random.Random]) -> list[str]:
        """The changed texts; generator i alone determines the change of text i."""
        ...


def apply(augmentation: Augmentation, texts: Sequence[str], rngs: Sequence[random.Random]) -> list[str]:
    """The texts, changed by one augmentation; each text has its own generator."""
    if isinstance(augmentation, Batched):
        return augmentation.batch(texts, rngs)
    return [augmentation(text, rng) for text, rng in zip(texts, rngs, strict=True)]


def render(augmentations: Sequence[Augmentation], texts: Sequence[str], rngs: Sequence[random.Random]) -> list[str]:
    """The texts, changed by several augmentations in order; each text has its own generator."""
    result = list(texts)
    for augmentation in augmentations:
        result = apply(augmentation, result, rngs)
    return result
