"""Several sources of rows in one run, each with settings of its own, and the source of every step."""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cse.batch import Example
from cse.data.datasets import Dataset
from cse.data.loader import StepBatches, Steps, steps_of_run
from cse.data.reading.texts import TextStream, joined
from cse.encoder.prompts import ROLES
from cse.errors import UserError, require_at_least, require_within
from cse.interfaces import Collator, Objective, Sampler
from cse.seeding import python_rng


@dataclass(frozen=True, slots=True)
class Source:
    """A data set of a mixture, and what its steps have of their own. What is None is that of the recipe.

    Args:
        data: The rows.
        weight: Factor of the share of steps, >= 0; see `Mixture`. 0 leaves the source out.
        batch_size: Anchors per optimizer step, over all processes.
        prompts: The name of the encoder's prompt for each role; see `cse.data.TextViews`.
        collator: Makes batches of the rows.
        sampler: Chooses which rows share a batch.
        objective: The loss of the steps of this source. What it does after a step it does after these steps only.
    """

    data: Dataset
    # Not `_: KW_ONLY`, which typing of Python 3.10 does not resolve.
    weight: float = field(default=1.0, kw_only=True)
    batch_size: int | None = field(default=None, kw_only=True)
    prompts: dict[str, str | None] | None = field(default=None, kw_only=True)
    collator: Collator | None = field(default=None, kw_only=True)
    sampler: Sampler | None = field(default=None, kw_only=True)
    objective: Objective | None = field(default=None, kw_only=True)


class Mixture(Dataset):
    """The rows of several sources, one source after the other. A step of training takes rows of one source.

    Args:
        sources: The sources by name: letters, digits, `_` and `-`.
        schedule: The share of each source in the steps of a run: `proportional` to weight and size, `weights` for the
            weights alone, `temperature` for something between the two, `round_robin` for all sources in turn. See
            `cse.data.mixture.shares`.
        temperature: The exponent of the sizes in the schedule `temperature`, in [0, 1]: 1 is `proportional`, 0 is
            `weights`. T5's temperature is 1 over this, and that of a softmax is a divisor.
    """

    unit = "rows"

    def __init__(
        self, sources: dict[str, Source], *, schedule: Schedule = "proportional", temperature: float | None = None
    ) -> None:
        self.sources, self.schedule, self.temperature = require_sources(sources), schedule, temperature
        require_schedule(schedule, temperature, {name: source.weight for name, source in self.sources.items()})
        datasets = [source.data for source in self.sources.values()]
        self.path = ""  # of each source
        self.name = "mixture of " + ", ".join(self.sources)
        self.understood = "; ".join(f"{name}: {s.data.understood}" for name, s in sources.items() if s.data.understood)
        self.report = dict(sum((Counter(data.report) for data in datasets), Counter()))
        self.remarks = dict(sum((Counter(data.remarks) for data in datasets), Counter()))
        self.in_memory, self.ragged = any(d.in_memory for d in datasets), any(d.ragged for d in datasets)
        self.value_names = frozenset[str]().union(*(data.value_names for data in datasets))
        named = [f"{name} {data.hash}" for name, data in zip(self.sources, datasets, strict=True)]
        self.hash = hashlib.sha256("\n".join(named).encode()).hexdigest()
        self.firsts = [0, *accumulate(map(len, datasets))]  # the number of the first row of each source; then the count

    def __len__(self) -> int:
        return self.firsts[-1]

    def _row(self, index: int) -> Example:
        """The row at a place, with the `row_id` that it has in its source."""
        place = bisect_right(self.firsts, index) - 1
        name = list(self.sources)[place]
        return replace(self.sources[name].data[index - self.firsts[place]], source=name)

    def save_source(self, target: Path) -> None:
        """Write the rows of each source in memory beside `target`; see `source_file`."""
        for name, source in self.sources.items():
            if source.data.in_memory:
                source.data.save_source(source_file(target, name))

    def labels(self) -> None:
        """None: a mixture has no labels, since each source may count its own."""

    def scores(self) -> None:
        """None: each source has a scale of its own."""

    def blocks(self) -> Iterator[list[list[str]]]:
        """The texts of all rows, source by source."""
        return (block for source in self.sources.values() for block in source.data.blocks())

    def texts(self) -> TextStream:
        """All texts, source by source."""
        return joined(*(source.data.texts() for source in self.sources.values()))

    def describe(self) -> str:
        """The sources, the number of all rows, and the schedule."""
        schedule = f"temperature {self.temperature:g}" if self.schedule == "temperature" else self.schedule
        return f"{self.name}: {len(self):,} {self.unit}, {schedule.replace('_', ' ')}"

    def steps(
        self,
        sources: Mapping[str, StepBatches],
        seed: int,
        *,
        max_steps: int | None,
        cap_steps: int | None,
        epochs: float,
    ) -> MixedBatches:
        """Make the steps of a run; an epoch has those of one pass over every source."""
        weights = {name: source.weight for name, source in self.sources.items()}
        each = {name: steps.steps_per_epoch for name, steps in sources.items()}
        per_epoch = sum(count for name, count in each.items() if weights[name])
        return MixedBatches(
            list(sources.values()),
            self.firsts,
            shares(self.schedule, self.temperature, weights, each),
            None if self.schedule == "round_robin" else seed,
            steps_per_epoch=per_epoch,
            max_steps=steps_of_run(per_epoch, max_steps, cap_steps, epochs),
        )


def source_file(target: Path, name: str) -> Path:
    """The file of a source beside `target`: rows-nli.parquet for the source `nli` and rows.parquet."""
    return target.with_stem(f"{target.stem}-{name}")


def require_sources(sources: object) -> dict[str, Source]:
    """Check the sources, and return them by name."""
    if not isinstance(sources, Mapping) or not sources:
        what = f"of type {type(sources).__name__}" if sources else "empty"
        raise UserError(f"data.sources is {what}\nfix: give sources by name, such as {{nli: {{data: ..., weight: 2}}}}")
    for name, source in sources.items():
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise UserError(
                f"data.sources has a source of the name {name!r}\nfix: give a name of letters, digits, _ and -"
            )
        option = f"data.sources.{name}"
        if not isinstance(source, Source):
            raise UserError(
                f"{option} is of type {type(source).__name__}\n"
                "fix: give a cse.Source, such as cse.Source(data, weight=2)"
            )
        if not isinstance(source.data, Dataset) or isinstance(source.data, Mixture):
            raise UserError(
                f"{option}.data is of type {type(source.data).__name__}\n"
                "fix: give a data set other than a mixture, such as cse.Pairs(rows)"
            )
        require_within("[0, inf)", option, weight=source.weight)
        require_at_least(1, option, batch_size=source.batch_size)
        for role in source.prompts or {}:
            if role not in ROLES:
                raise UserError(f"{option}.prompts names the role {role!r}\nfix: give roles of {', '.join(ROLES)}")
    return dict(sources)


Schedule = Literal["proportional", "temperature", "weights", "round_robin"]
BLOCK = 1024  # steps that are drawn together
GOLDEN = (5**0.5 - 1) / 2


class MixedBatches(Steps):
    """The steps of a mixture. The n-th step that a source gets has the rows of the n-th step of a run on it alone.

    The source of step t is the one in whose part of [0, 1), as long as its share, the fraction of u + t g lies, where g
    is the golden ratio and u depends on the seed; without a seed the sources take turns. Of all such sequences this one
    is spread most evenly (Knuth, The Art of Computer Programming, volume 3, section 6.4, theorem S), so that shares are
    right within few steps from any step. `firsts` are the numbers of the first row of each source.
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
    """Compute the share of each source in the steps of a run; their sum is 1.

        share of the steps of source i = w_i s_i^a / sum_j w_j s_j^a

    w is the weight of a source and s the number of steps of one pass over it. The exponent a is 1 for the schedule
    `proportional`, so that every source is passed over equally often if weights are equal; 0 for `weights`; the
    temperature for `temperature` (mT5, arXiv:2010.11934, section 3.2, where it is alpha; T5, arXiv:1910.10683, section
    3.5.2, has 1/T). In the schedule `round_robin` the sources take turns.

    A step has one source, on all processes and in all of its accumulated parts. So it is a step of that source's own
    run: one objective has one batch size and one loss, which gradient caching takes on all vectors at once, and the
    mean over the parts is a mean of like losses.
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
