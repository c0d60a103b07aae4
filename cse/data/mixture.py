"""Several sources of rows in one run, each with settings of its own; `cse.data.schedule` draws that of each step."""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path

from cse.batch import Example
from cse.data.datasets import Dataset
from cse.data.loader import StepBatches, steps_of_run
from cse.data.schedule import MixedBatches, Schedule, require_schedule, shares
from cse.data.text_stream import TextStream, joined
from cse.encoder.prompts import ROLES
from cse.errors import UserError, require_at_least, require_within
from cse.interfaces import Collator, Objective, Sampler


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
            `cse.data.schedule`.
        temperature: The exponent of the sizes in the schedule `temperature`, in [0, 1]: 1 is `proportional`, 0 is
            `weights`. T5's temperature is 1 over this, and that of a softmax is a divisor.

    Raises:
        UserError: There is no source, or an argument is out of range.
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

    @property
    def in_memory(self) -> bool:
        """Whether the rows of a source came from an object in memory."""
        return any(source.data.in_memory for source in self.sources.values())

    def save_source(self, target: Path) -> None:
        """Write the rows of each source in memory beside `target`; see `source_file`."""
        for name, source in self.sources.items():
            if source.data.in_memory:
                source.data.save_source(source_file(target, name))

    @property
    def ragged(self) -> bool:
        """Whether rows of a source have unequal numbers of texts."""
        return any(source.data.ragged for source in self.sources.values())

    @property
    def weighted(self) -> bool:
        """Whether rows of a source have weights."""
        return any(source.data.weighted for source in self.sources.values())

    @property
    def graded(self) -> bool:
        """Whether positives of a source have relevances."""
        return any(source.data.graded for source in self.sources.values())

    @property
    def taught(self) -> bool:
        """Whether rows of a source have numbers of a teacher."""
        return any(source.data.taught for source in self.sources.values())

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
        """The steps of a run.

        Args:
            sources: The steps of each source alone.
            seed: The seed of the run.
            max_steps: See `StepBatches`, also for the others. An epoch has the steps of one pass over every source.
            cap_steps: See `max_steps`.
            epochs: See `max_steps`.
        """
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
    """The sources by name.

    Raises:
        UserError: No source is given, one has no proper name or no rows, or an argument of one is out of range.
    """
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
