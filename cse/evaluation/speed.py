"""The speed of encoders on this machine, measured in turn: whatever else the machine does slows all of them down."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cse.evaluation.sts import Embed

ROUNDS = 3
MOST, PART = 512, 64  # texts that are encoded at once, at most, and of which their number is a multiple

Change = Callable[[NDArray[np.floating]], NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast an encoder is.

    Attributes:
        sentences_per_s: The median over rounds.
        times_as_fast: The ratio to the first encoder in the same round, the median over rounds.
    """

    sentences_per_s: float
    times_as_fast: float


def conditions(encoder: Any) -> dict[str, Any]:
    """What a speed depends on besides the texts: rounds, threads and device."""
    device = torch.device(getattr(encoder, "device", None) or "cpu")
    return {"rounds": ROUNDS, "threads": torch.get_num_threads(), "device": device.type}


def enough(encode: Embed, texts: Sequence[str], seconds: float) -> list[str]:
    """The first of the texts, such that an encoder takes about as long for them as a round lasts."""
    few = list(texts[:PART])
    encode(few)  # the first call loads what it needs
    per_text, _ = _timed(encode, few, 0)
    return list(texts[: min(MOST, max(PART, int(seconds / ROUNDS / per_text) // PART * PART))])


def measure(
    encoders: Mapping[str, Embed], changes: Mapping[str, Change], texts: Sequence[str], seconds: float
) -> dict[str, Speed]:
    """Time encoders in rounds, each beginning with another one.

    Args:
        encoders: The encoders by name; the others are compared with the first one.
        changes: Changes of the vectors of the first encoder, by name, whose time is added to that of encoding.
        texts: The texts that are encoded.
        seconds: The least time that each encoder encodes, in all rounds together; 0: the texts once in each round.
    """
    first, *_ = names = list(encoders)
    some, each = list(texts), seconds / ROUNDS
    vectors = [encode(some[:PART]) for encode in encoders.values()]
    for change in changes.values():
        change(vectors[0])
    taken: dict[str, list[float]] = {name: [] for name in (*names, *changes)}
    for number in range(ROUNDS):
        for name in (*names[number % len(names) :], *names[: number % len(names)]):
            per_text, found = _timed(encoders[name], some, each)
            taken[name].append(per_text)
            for other, change in changes.items() if name == first else ():
                start = time.perf_counter()
                change(found)
                taken[other].append(per_text + (time.perf_counter() - start) / len(some))
    return {
        name: Speed(
            1 / statistics.median(rounds),
            statistics.median(a / b for a, b in zip(taken[first], rounds, strict=True)),
        )
        for name, rounds in taken.items()
    }


def _timed(encode: Embed, texts: list[str], seconds: float) -> tuple[float, NDArray[np.floating]]:
    """The seconds per text, over passes that take as long as this or longer, and the vectors."""
    start, done = time.perf_counter(), 0
    while True:
        vectors = encode(texts)
        done += len(texts)
        if (taken := time.perf_counter() - start) >= seconds:
            return taken / done, vectors
