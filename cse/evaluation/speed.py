"""The speed of encoders on this machine, measured in turn, so that whatever else it does slows all of them down."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cse.evaluation.encoding import Embed, device_of

ROUNDS = 3
MOST, PART = 512, 64  # texts that are encoded at once, at most, and of which their number is a multiple

Clock = Callable[[], float]
Change = Callable[[NDArray[np.floating]], NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class Speed:
    """Hold how fast an encoder is."""

    sentences_per_s: float  # the median over rounds
    times_as_fast: float  # the ratio to the first encoder in the same round, the median over rounds


def clock_of(encoder: Any) -> Clock:
    """The clock for an encoder: on one thread of a CPU that of the processor, which other programs do not slow down."""
    return time.process_time if device_of(encoder).type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter


def conditions(encoder: Any) -> dict[str, Any]:
    """Say what a speed depends on besides the texts: rounds, threads, device, and the clock."""
    clock = "processor" if clock_of(encoder) is time.process_time else "wall"
    return {"rounds": ROUNDS, "threads": torch.get_num_threads(), "device": device_of(encoder).type, "clock": clock}


def enough(encode: Embed, texts: Sequence[str], seconds: float, clock: Clock) -> list[str]:
    """The first of the texts, such that an encoder takes about as long for them as a round lasts."""
    few = list(texts[:PART])
    encode(few)  # the first call loads what it needs
    per_text, _ = _timed(encode, few, 0, clock)
    return list(texts[: min(MOST, max(PART, int(seconds / ROUNDS / per_text) // PART * PART))])


def measure(
    encoders: Mapping[str, Embed],
    changes: Mapping[str, Change],
    texts: Sequence[str],
    seconds: float,
    clock: Clock = time.perf_counter,
) -> dict[str, Speed]:
    """Time encoders in rounds, each beginning with another one.

    Encoders are compared with the first one. `changes` are of its vectors, and their time is added to that of encoding.
    Each encoder encodes for `seconds` or longer, in all rounds together; 0: the texts once in each round.
    """
    first, *_ = names = list(encoders)
    some, each = list(texts), seconds / ROUNDS
    vectors = [encode(some[:PART]) for encode in encoders.values()]
    for change in changes.values():
        change(vectors[0])
    taken: dict[str, list[float]] = {name: [] for name in (*names, *changes)}
    for number in range(ROUNDS):
        for name in (*names[number % len(names) :], *names[: number % len(names)]):
            per_text, found = _timed(encoders[name], some, each, clock)
            taken[name].append(per_text)
            for other, change in changes.items() if name == first else ():
                start = clock()
                change(found)
                taken[other].append(per_text + (clock() - start) / len(some))
    return {
        name: Speed(
            1 / statistics.median(rounds),
            statistics.median(a / b for a, b in zip(taken[first], rounds, strict=True)),
        )
        for name, rounds in taken.items()
    }


def _timed(encode: Embed, texts: list[str], seconds: float, clock: Clock) -> tuple[float, NDArray[np.floating]]:
    """The seconds per text, over passes that take as long as this or longer, and the vectors."""
    start, done = clock(), 0
    while True:
        vectors = encode(texts)
        done += len(texts)
        if (taken := clock() - start) >= seconds:
            return taken / done, vectors
