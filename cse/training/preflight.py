"""What cannot train is refused here, before any work: each refusal names the option, its value and the fix."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from cse import distributed
from cse.errors import UserError

if TYPE_CHECKING:
    from cse.training.run import Run
    from cse.training.settings import Settings


def check(run: Run, settings: Settings) -> None:
    """Refuse data, collator, objective, encoder and settings that do not go together.

    Raises:
        UserError: They do not.
    """
    for problem in (*_of_views(run), *_of_objective(run, settings), *_of_batch(run, settings)):
        raise UserError(problem)


def _of_views(run: Run) -> Iterator[str]:
    if run.collator.needs_dropout(run.data[0]) and not run.encoder.has_dropout:
        yield (
            "the views of a text differ by dropout only, and the encoder has none: positives would be identical\n"
            "fix: set encoder.init_args.attention_dropout or embedding_dropout above 0, or augment the views"
        )
    if run.collator.max_length > run.encoder.max_positions:
        yield (
            f"collator.max_length is {run.collator.max_length}; "
            f"{run.encoder.source} can position at most {run.encoder.max_positions} tokens"
        )


def _of_objective(run: Run, settings: Settings) -> Iterator[str]:
    name = type(run.objective).__name__
    missing = run.objective.requires - run.collator.provides
    if missing:
        collator = type(run.collator).__name__
        yield f"objective {name} needs Batch.{sorted(missing)[0]}, which collator {collator} does not give"
    if not run.objective.uses_views and [*run.encoder.head.parameters(), *run.encoder.post.parameters()]:
        yield (
            f"encoder.head is trained by nothing: objective {name} reads no vectors\n"
            "fix: leave encoder.init_args.head and export_head out"
        )
    if run.data.weighted and not run.objective.weighs_rows:
        yield (
            f"data.weight_column gives rows weights, which objective {name} does not use\n"
            "fix: leave data.init_args.weight_column out, or use an objective with weights, such as SimCSE"
        )
    if settings.chunk_size is not None and not run.objective.cacheable:
        yield (
            f"trainer.chunk_size is {settings.chunk_size}, but {name} encodes more than the batch's views, "
            "so its gradient cannot be cached; remove chunk_size"
        )


def _of_batch(run: Run, settings: Settings) -> Iterator[str]:
    processes = distributed.world_size()
    parts = processes * settings.accumulation
    if settings.batch_size % parts:
        yield (
            f"trainer.batch_size is {settings.batch_size}, which {processes} processes x "
            f"{settings.accumulation} accumulated parts do not divide; give a multiple of {parts}"
        )
    if len(run.data) < settings.batch_size:
        yield (
            f"trainer.batch_size is {settings.batch_size}, but {run.data.describe()} has {len(run.data)} rows; "
            "give a smaller batch or more data"
        )
