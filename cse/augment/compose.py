"""Augmentations of many texts at once, and those that are composed of others."""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Sequence

from cse.errors import UserError, require_within
from cse.interfaces import Augmentation

Rngs = Sequence[random.Random]


class Batched(Augmentation):
    """An augmentation that changes many texts at once, because this is cheaper than one by one."""

    def __call__(self, text: str, rng: random.Random) -> str:
        """Change one text."""
        return self.batch([text], [rng])[0]

    @abstractmethod
    def batch(self, texts: Sequence[str], rngs: Rngs) -> list[str]:
        """Change texts; generator i alone determines the change of text i."""


def render(augmentations: Sequence[Augmentation], texts: Sequence[str], rngs: Rngs) -> list[str]:
    """Change texts by several augmentations in order; each text has its own generator."""
    result = list(texts)
    for each in augmentations:
        if isinstance(each, Batched):
            result = each.batch(result, rngs)
        else:
            result = [each(text, rng) for text, rng in zip(result, rngs, strict=True)]
    return result


def _some(augmentation: Augmentation, texts: Sequence[str], rngs: Rngs, chosen: Sequence[int]) -> list[str]:
    """Change the chosen texts only."""
    result = list(texts)
    for i, text in zip(
        chosen, render([augmentation], [texts[i] for i in chosen], [rngs[i] for i in chosen]), strict=True
    ):
        result[i] = text
    return result


class Sometimes(Batched):
    """Applies an augmentation to a text with a given probability.

    Args:
        augmentation: The augmentation to apply.
        probability: The probability that it is applied, in (0, 1].
    """

    def __init__(self, *, augmentation: Augmentation, probability: float = 0.5) -> None:
        require_within("(0, 1]", "Sometimes", probability=probability)
        self.augmentation, self.probability = augmentation, probability

    def batch(self, texts: Sequence[str], rngs: Rngs) -> list[str]:
        """Change some of the texts."""
        return _some(
            self.augmentation, texts, rngs, [i for i, rng in enumerate(rngs) if rng.random() < self.probability]
        )


class OneOf(Batched):
    """Applies one of several augmentations, drawn for each text.

    Args:
        augmentations: The augmentations to choose from.
        weights: Their relative probabilities, > 0. None: all are equally likely.
    """

    def __init__(self, *, augmentations: list[Augmentation], weights: list[float] | None = None) -> None:
        if not augmentations:
            raise UserError("OneOf.augmentations is empty\nfix: give one or more")
        if weights is not None and (len(weights) != len(augmentations) or not all(w > 0 for w in weights)):
            raise UserError(
                f"OneOf.weights is {weights}\nfix: give {len(augmentations)} numbers > 0, one per augmentation"
            )
        self.augmentations, self.weights = augmentations, weights

    def batch(self, texts: Sequence[str], rngs: Rngs) -> list[str]:
        """Change each text by the augmentation that is drawn for it."""
        numbers = range(len(self.augmentations))
        drawn = [rng.choices(numbers, self.weights)[0] for rng in rngs]
        result = list(texts)
        for number, augmentation in enumerate(self.augmentations):
            result = _some(augmentation, result, rngs, [i for i, own in enumerate(drawn) if own == number])
        return result


class InOrder(Batched):
    """Applies several augmentations in order, so that `OneOf` and `Sometimes` can take them as one.

    Args:
        augmentations: One or more, in the order in which they apply.
    """

    def __init__(self, *, augmentations: list[Augmentation]) -> None:
        if not augmentations:
            raise UserError("InOrder.augmentations is empty\nfix: give one or more")
        self.augmentations = augmentations

    def batch(self, texts: Sequence[str], rngs: Rngs) -> list[str]:
        """Change each text by all augmentations."""
        return render(self.augmentations, texts, rngs)
