"""Masks words of a sentence, which a model then fills with others (CLAIF, arXiv:2305.01918, section 3.1)."""

from __future__ import annotations

import itertools
import math

from cse.feedback.answers import MARK

MERGE = 0.5  # the authors' probability that adjacent gaps become one


def mask(text: str, rate: float, *, seed: int, row: int) -> str:
    """Replace ceil(rate x words) random words by a mark; with probability 1/2, adjacent marks become one.

    Args:
        text: The sentence; its words are separated by white space.
        rate: The share of words to mask, in [0, 1).
        seed: The seed of the job.
        row: Number of the sentence's row; with seed and rate it determines which words are masked.
    """
    from cse.seeding import python_rng

    words = text.split()
    rng = python_rng(seed, "mask", row, rate)
    chosen = set(rng.sample(range(len(words)), math.ceil(round(rate * len(words), 9))))
    masked = [MARK if i in chosen else word for i, word in enumerate(words)]
    if rng.random() < MERGE:
        runs = itertools.groupby(masked, key=lambda word: word == MARK)
        masked = [word for is_gap, run in runs for word in ([MARK] if is_gap else run)]
    return " ".join(masked)
