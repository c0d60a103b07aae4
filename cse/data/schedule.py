"""The source of every step of a mixture.

    share of the steps of source i = w_i s_i^a / sum_j w_j s_j^a

w is the weight of a source and s the number of steps of one pass over it. The exponent a is 1 for the schedule
`proportional`, so that every source is passed over equally often if weights are equal; 0 for `weights`; the temperature
for `temperature` (mT5, arXiv:2010.11934, section 3.2, where it is alpha; T5, arXiv:1910.10683, section 3.5.2, has 1/T).
In the schedule `round_robin` the sources take turns.

A step has one source, on all processes and in all of its accumulated parts. So it is a step of that source's own run:
one objective has one batch size and one loss, which gradient caching takes on all vectors at once, and the mean over
the parts is a mean of like losses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cse.data.loader import StepBatches, Steps
from cse.errors import UserError, require_within
from cse.seeding import python_rng

Schedule = Literal["proportional", "temperature", "weights", "round_robin"]
BLOCK = 1024  # steps that are drawn together
GOLDEN = (5**0.5 - 1) / 2


class MixedBatches(Steps):
    """The steps of a mixture. The n-th step that a source gets has the rows of the n-th step of a run on it alone.

    The source of step t is the one in whose part of [0, 1), as long as its share, the fraction of u + t g lies, where g
    is the golden ratio and u depends on the seed. Of all such sequences this one is spread most evenly (Knuth, The Art
    of Computer Programming, volume 3, section 6.4, theorem S), so that shares are right within few steps from any step.

    Args:
        sources: The steps of each source alone.
        firsts: The number of the first row of each source.
        shares: The share of the steps of each source, by name.
        seed: The seed of the run. None: the sources have their steps in turn.
        steps_per_epoch: Number of steps of one pass over every source.
        max_steps: Number of steps of the run.
    """

    def __init__(
        self,
        sources: Sequence[StepBatches],
        firsts: Sequence[int],
        shares: Mapping[str, float],
        seed: int | None,
        *,
        steps_per_epoch: int,
        max_steps: int,
    ) -> None:
        self.sources, self.first_rows, self.shares, self.seed = sources, firsts, shares, seed
        self.accumulation = sources[0].accumulation
        self.steps_per_epoch, self.max_steps = steps_per_epoch, max_steps
        self._block = lru_cache(maxsize=2)(self._drawn)
        self._start = 0.0 if seed is None else python_rng(seed, "source").random()
        self._before = [np.zeros(len(sources), dtype=np.int64)]  # the steps of each source before each block

    def of_step(self, step: int) -> tuple[int, list[int]]:
        """The epoch of the source of a step, and the rows of the step, over all processes."""
        block, place = divmod(step, BLOCK)
        source = int(self._block(block)[place])
        return self._of_source(source, int(self._counts(step)[source]))

    def firsts(self) -> dict[str, tuple[int, list[int]]]:
        """The first step of every source."""
        return {name: self._of_source(source, 0) for source, name in enumerate(self.shares)}

    def figures(self, step: int) -> dict[str, float]:
        """The share of each source in the steps so far, as `drawn_NAME`, and what was asked for, as `asked_NAME`."""
        counts = self._counts(step) / max(1, step)
        drawn = {f"drawn_{name}": round(float(count), 4) for name, count in zip(self.shares, counts, strict=True)}
        return drawn | {f"asked_{name}": round(share, 4) for name, share in self.shares.items()}

    def _of_source(self, source: int, visit: int) -> tuple[int, list[int]]:
        epoch, rows = self.sources[source].of_step(visit)
        return epoch, [self.first_rows[source] + row for row in rows]

    def _counts(self, step: int) -> NDArray[np.int64]:
        """The steps of each source (S,) before a step."""
        block, place = divmod(step, BLOCK)
        while len(self._before) <= block:
            self._before.append(self._before[-1] + self._count(self._block(len(self._before) - 1)))
        return self._before[block] + self._count(self._block(block)[:place])

    def _count(self, drawn: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.bincount(drawn, minlength=len(self.sources)).astype(np.int64)

    def _drawn(self, block: int) -> NDArray[np.int64]:
        """The source (BLOCK,) of each step of a block."""
        steps = np.arange(block * BLOCK, (block + 1) * BLOCK)
        if self.seed is None:
            return steps % len(self.sources)
        ends = np.cumsum(list(self.shares.values()))
        return np.searchsorted(ends / ends[-1], (self._start + GOLDEN * steps) % 1, "right")


def shares(
    schedule: Schedule, temperature: float | None, weights: Mapping[str, float], steps: Mapping[str, int]
) -> dict[str, float]:
    """The share of each source in the steps of a run, by name; their sum is 1.

    Args:
        schedule: See the docstring of the module.
        temperature: The exponent of the schedule `temperature`.
        weights: The weights, by name of the source.
        steps: The steps of one pass over each source.
    """
    power = {"proportional": 1.0, "temperature": temperature or 0.0}.get(schedule, 0.0)
    raw = {name: weight * steps[name] ** power for name, weight in weights.items()}
    return {name: value / sum(raw.values()) for name, value in raw.items()}


def require_schedule(schedule: str, temperature: float | None, weights: Mapping[str, float]) -> None:
    """Raise a UserError unless schedule, temperature and weights go together."""
    if schedule not in get_args(Schedule):
        raise UserError(f"data.schedule is {schedule!r}\nfix: give one of {', '.join(get_args(Schedule))}")
    require_within("[0, 1]", "data", temperature=temperature)
    if (schedule == "temperature") != (temperature is not None):
        value = "not given" if temperature is None else temperature
        raise UserError(
            f"data.schedule is {schedule}, and data.temperature is {value}\n"
            "fix: give both, such as schedule: temperature and temperature: 0.5, or another schedule alone"
        )
    if not sum(weights.values()):
        raise UserError(
            "data.sources: the weights of all sources are 0\nfix: give the weight of one source or more a number > 0"
        )
    uneven = [name for name, weight in weights.items() if weight != 1]
    if schedule == "round_robin" and uneven:
        raise UserError(
            "data.schedule is round_robin, in which all sources have the same share, and "
            f"data.sources.{uneven[0]}.weight is {weights[uneven[0]]:g}\n"
            "fix: use the schedule weights, or remove the weight"
        )
