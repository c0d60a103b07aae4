"""Augmentations that are composed of other augmentations."""

from __future__ import annotations

import random
from collections.abc import Sequence

from cse.augment.batched import apply
from cse.errors import UserError, require_within
from cse.interfaces import Augmentation


class Sometimes(Augmentation):
    """Applies an augmentation to a text with a given probability.

    Args:
        augmentation: The augmentation to apply.
        probability: The probability that it is applied.

    Raises:
        UserError: The probability is outside (0, 1].
    """

    def __init__(self, *, augmentation: Augmentation, probability: float = 0.5) -> None:
        self.augmentation = augmentation
        require_within("(0, 1]", "Sometimes", probability=probability)
        self.probability = probability

    def __call__(self, text: str, rng: random.Random) -> str:
        """The text, augmented or as it is."""
        return self.batch([text], [rng])[0]

    def batch(self, texts: Sequence[str], rngs: Sequence[random.Random]) -> list[str]:
        """The same for many texts, each with its generator."""
        chosen = [i for i, rng in enumerate(rngs) if rng.random() < self.probability]
        return _some(self.augmentation, texts, rngs, chosen)


class OneOf(Augmentation):
    """Applies one of several augmentations, drawn for each text.

    Args:
        augmentations: The augmentations to choose from.
        weights: The relative probabilities of the augmentations. None: all are equally likely.

    Raises:
        UserError: The list is empty, or there is not one weight > 0 for each augmentation.
    """

    def __init__(self, *, augmentations: list[Augmentation], weights: list[float] | None = None) -> None:
        if not augmentations:
            raise UserError("OneOf.augmentations is empty\nfix: give one or more")
        if weights is not None and (len(weights) != len(augmentations) or not all(w > 0 for w in weights)):
            raise UserError(
                f"OneOf.weights is {weights}\nfix: give {len(augmentations)} numbers > 0, one per augmentation"
            )
        self.augmentations, self.weights = augmentations, weights

    def __call__(self, text: str, rng: random.Random) -> str:
        """The text, changed by the augmentation that is drawn."""
        return self.batch([text], [rng])[0]

    def batch(self, texts: Sequence[str], rngs: Sequence[random.Random]) -> list[str]:
        """The same for many texts, each with its generator."""
        numbers = range(len(self.augmentations))
        drawn = [rng.choices(numbers, self.weights)[0] for rng in rngs]
        result = list(texts)
        for number, augmentation in enumerate(self.augmentations):
            result = _some(augmentation, result, rngs, [i for i, own in enumerate(drawn) if own == number])
        return result


class InOrder(Augmentation):
    """Applies several augmentations in order, so that `OneOf` and `Sometimes` can take them as one.

    Args:
        augmentations: The augmentations, in the order in which they apply.

    Raises:
        UserError: The list is empty.
    """

    def __init__(self, *, augmentations: list[Augmentation]) -> None:
        if not augmentations:
            raise UserError("InOrder.augmentations is empty\nfix: give one or more")
        self.augmentations = augmentations

    def __call__(self, text: str, rng: random.Random) -> str:
        """The text, changed by all augmentations."""
        return self.batch([text], [rng])[0]

    def batch(self, texts: Sequence[str], rngs: Sequence[random.Random]) -> list[str]:
        """The same for many texts, each with its generator."""
        result = list(texts)
        for augmentation in self.augmentations:
            result = apply(augmentation, result, rngs)
        return result


def _some(
    augmentation: Augmentation, texts: Sequence[str], rngs: Sequence[random.Random], chosen: Sequence[int]
) -> list[str]:
    """The texts, with the chosen ones augmented."""
    result = list(texts)
    if chosen:
        changed = apply(augmentation, [texts[i] for i in chosen], [rngs[i] for i in chosen])
        for i, text in zip(chosen, changed, strict=True):
            result[i] = text
    return result
