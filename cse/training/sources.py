"""The sources of a run: each trains as a run of its own would. A run without a mixture is its own source."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from copy import copy, deepcopy
from dataclasses import replace
from functools import partial
from typing import Literal, TypeVar

from cse.data.loader import FixedRows, StepBatches, Steps
from cse.data.mixture import Mixture, Source
from cse.data.reading.texts import joined
from cse.data.tokens import TokenStore
from cse.errors import UserError
from cse.training.run import Run

Result = TypeVar("Result")


def sources(run: Run) -> dict[str, Run]:
    """The run of each source, by name: with the data of the source, and what a source may have of its own.

    The run itself, named "", without a mixture. Encoder, evaluator and progress are those of the run.
    """
    if not isinstance(run.data, Mixture):
        return {"": run}
    if not run.by_source:
        run.by_source |= {name: _alone(run, source) for name, source in run.data.sources.items()}
    return run.by_source


def similarities(run: Run) -> dict[str, Literal["cosine", "euclidean"]]:
    """The similarity that the objective of each source shapes, if it trains sentence vectors and has steps at all."""
    left_out = (
        {n for n, source in run.data.sources.items() if not source.weight} if isinstance(run.data, Mixture) else ()
    )
    objectives = {name: source.objective for name, source in sources(run).items() if name not in left_out}
    return {name: o.similarity for name, o in objectives.items() if o.trains_vectors}


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
    settings, each = run.settings, for_each(run, _steps_of)
    if not isinstance(run.data, Mixture):
        return each[""]
    found = run.data.steps(
        each, run.seed, max_steps=settings.max_steps, cap_steps=settings.cap_steps, epochs=settings.epochs
    )
    for name, source in sources(run).items():
        source.share = found.shares[name]
    return found


def _steps_of(name: str, run: Run) -> StepBatches:
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


def for_each(run: Run, function: Callable[[str, Run], Result]) -> dict[str, Result]:
    """Collect what a function of each source's name and run returns, by name; its errors are one, with all problems."""
    found, problems = dict[str, Result](), []
    for name, source in sources(run).items():
        try:
            found[name] = function(name, source)
        except UserError as error:
            problems.append(named(run, name, str(error)))
    if problems:
        raise UserError("\n".join(problems))
    return found


def set_up(name: str, run: Run, more: Sequence[str]) -> Sequence[str]:
    """Tokenize the texts of a source, and `more`, for its collator; returns the texts as text ids count them."""
    tokens = tokenized(run, more)
    run.collator.setup(tokens, run.seed)
    run.truncated = tokens.truncated
    return tokens.texts


def tokenized(run: Run, more: Sequence[str] = ()) -> TokenStore:
    """The texts of a source, and `more`, with the prompts and the length of the source."""
    return TokenStore.build(
        joined(run.data.texts(), more),
        run.encoder.tokenizer,
        run.collator.max_length,
        run.encoder.prompts_by_role(run.collator.prompts),
    )


def named(run: Run, name: str, problem: str) -> str:
    """A problem of a source, with the options that the source has of its own in place of those of the recipe."""
    if not isinstance(run.data, Mixture):
        return problem
    source, option = run.data.sources[name], f"data.sources.{name}"
    own = [r"data(?=\.\w)(?!\.sources)"]
    own += [r"trainer\.batch_size"] if source.batch_size is not None else []
    own += [r"collator\.prompts"] if source.prompts is not None else []
    own += [r"collator(?=\.\w)"] if source.collator is not None else []
    options = rf"(?<![\w.])({'|'.join(own)})\b"
    return f"{option}: " + re.sub(options, lambda found: f"{option}.{found[1].rpartition('.')[2]}", problem)
