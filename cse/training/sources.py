"""The sources of a run: each trains as a run of its own would. A run without a mixture is its own source."""

from __future__ import annotations

import re
from copy import copy, deepcopy
from dataclasses import replace
from functools import partial

from cse.data.loader import FixedRows, StepBatches, Steps
from cse.data.mixture import Mixture, Source
from cse.training.run import Run


def sources(run: Run) -> dict[str, Run]:
    """The run of each source, by name: with the data of the source, and what a source may have of its own.

    The run itself, named "", without a mixture. Encoder, evaluator and progress are those of the run.
    """
    if not isinstance(run.data, Mixture):
        return {"": run}
    if not run.by_source:
        run.by_source |= {name: _alone(run, source) for name, source in run.data.sources.items()}
    return run.by_source


def _alone(run: Run, source: Source) -> Run:
    settings, collator = copy(run.settings), deepcopy(source.collator or run.collator)  # it gets texts of its own
    settings.batch_size = source.batch_size or settings.batch_size
    if source.prompts is not None:
        collator.prompts = dict(source.prompts)
    return replace(
        run,
        data=source.data,
        collator=collator,
        objective=source.objective or run.objective,
        settings=settings,
        sampler=source.sampler or run.sampler,
        source=FixedRows(),
    )


def steps(run: Run) -> Steps:
    """The rows of every step of a run."""
    settings = run.settings
    each = {name: _steps_of(source) for name, source in sources(run).items()}
    if not isinstance(run.data, Mixture):
        return each[""]
    found = run.data.steps(
        each, run.seed, max_steps=settings.max_steps, cap_steps=settings.cap_steps, epochs=settings.epochs
    )
    for name, source in sources(run).items():
        source.share = found.shares[name]
    return found


def _steps_of(run: Run) -> StepBatches:
    size, accumulation = run.settings.batch_size, run.settings.accumulation
    return StepBatches(
        len(run.data),
        size,
        accumulation,
        run.seed,
        max_steps=run.settings.max_steps,
        cap_steps=run.settings.cap_steps,
        epochs=run.settings.epochs,
        draw=partial(run.sampler.batches, run.data, size // accumulation, run.seed) if run.sampler else None,
    )


def named(run: Run, name: str, problem: str) -> str:
    """A problem of a source, with the options that the source has of its own in place of those of the recipe."""
    if not isinstance(run.data, Mixture):
        return problem
    source, option = run.data.sources[name], f"data.sources.{name}"
    own = ["data"]
    own += ["trainer.batch_size"] if source.batch_size is not None else []
    own += ["collator.prompts"] if source.prompts is not None else []
    own += ["collator"] if source.collator is not None else []
    listed = "|".join(map(re.escape, own))
    short = re.sub(
        rf"(?<![\w.])({listed})(?=\.\w|\b(?!\.))(?!\.sources)", lambda m: f"{option}.{m[1].rpartition('.')[2]}", problem
    )
    return f"{option}: {short}"
