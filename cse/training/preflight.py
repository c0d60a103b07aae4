"""Refuse what cannot train before anything is written: all problems at once, each with its fix."""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain

import torch

from cse import distributed
from cse.batch import Batch, Example
from cse.data.loader import FixedRows
from cse.data.mixture import Mixture
from cse.encoder.adapters.soft_prompts import SoftPrompts
from cse.encoder.device import available
from cse.encoder.kinds import PACKAGES, without_layers
from cse.encoder.prompts import choose_prompt
from cse.environment import git_commit, versions
from cse.errors import UserError
from cse.interfaces import StepContext
from cse.recipe.settings import Settings
from cse.training import fsdp, gradcache, hardware, merge
from cse.training.learner import Encoded, Learner
from cse.training.run import Run
from cse.training.sources import named, similarities, sources

# The fields of a row that only some data have, and the option that names their column.
OF_ROWS = {
    "score": "score_column=NAME",
    "label": "label_column=NAME",
    "relevance": "relevance_columns=[NAME]",
    "teacher": "teacher_columns=[NAME]",
}


def check(run: Run) -> None:
    """Check that data, collator, objective, encoder and settings work together, and are the same on all processes.

    Raises:
        UserError: Some of them do not, and the message names every problem, each on its own lines; or one process
            differs from the first, and it names that process, its machine, and what differs.
    """
    if distributed.world_size() > 1:
        compare(facts(run))
    problems = [*hardware.problems(run.settings), *_of_mixture(run), *_of_sources(run)]
    problems += fsdp.problems(run.settings, run.encoder)
    if not run.encoder.depth:
        problems.append(without_layers("encoder.backbone", run.encoder.source))
    if run.settings.train_layers is not None and run.encoder.adapter is not None:
        problems.append(
            f"trainer.train_layers is {run.settings.train_layers}, and an adapter is trained instead of layers\n"
            "fix: remove one of the two"
        )
    if run.settings.save_precision != "fp32" and isinstance(run.encoder.adapter, SoftPrompts):
        problems.append(
            f"trainer.save_precision is {run.settings.save_precision}, and soft prompts are saved without backbone\n"
            "fix: remove trainer.save_precision"
        )
    if run.settings.initial_weights == "mean" or run.settings.merged_share is not None:
        problems += merge.problems(run.encoder)
    if problems:
        raise UserError("\n".join(problems))


def facts(run: Run) -> dict[str, str]:
    """List what must be the same everywhere, by its name: versions, commit, each line of the recipe, the rows."""
    lines = {f"the recipe's line {i}": line.strip() for i, line in enumerate(run.recipe.splitlines(), start=1)}
    # A copy of a file on one machine may have as many rows and other texts.
    rows = {"the number of rows": str(len(run.data)), "the sha256 of the rows": run.data.hash}
    return versions() | {"the commit of cse": git_commit() or "-"} | lines | rows


def compare(own: Mapping[str, str]) -> None:
    """Compare the facts of all processes by their hash, and by themselves if that differs.

    Raises:
        UserError: A process differs from the first one; all processes raise it.
    """
    digest = hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()
    digests = distributed.gather_objects(digest)
    if len(set(digests)) == 1:
        return
    everyone = distributed.gather_objects((socket.gethostname(), dict(own)))
    number = next(i for i, other in enumerate(digests) if other != digests[0])
    (host, first), (there, other) = everyone[0], everyone[number]
    what = next(name for name in {**first, **other} if first.get(name) != other.get(name))
    raise UserError(
        f"process {number} on {there} differs from process 0 on {host}: {what} is `{other.get(what, '')}` there, and "
        f"`{first.get(what, '')}` here\nfix: give every process the same versions, recipe, options and data"
    )


def _of_sources(run: Run) -> list[str]:
    """The problems of every source; what all have in common is a problem of the recipe, and is said once."""
    each = sources(run)
    found: dict[str, list[str]] = {}  # the problem as each source has it
    parts = (_of_views, _of_prompts, _of_objective, _of_values, _of_batch)
    for name, source in each.items():
        for problem in chain.from_iterable(part(source) for part in parts):
            found.setdefault(problem, []).append(named(run, name, problem))
    common = {p for p, texts in found.items() if len(texts) == len(each) and all(t.endswith(p) for t in texts)}
    return [text for problem, texts in found.items() for text in ([problem] if problem in common else texts)]


def _of_mixture(run: Run) -> Iterator[str]:
    if isinstance(run.data, Mixture) and not isinstance(run.source, FixedRows):
        yield (
            f"negatives is {type(run.source).__name__}, which finds the negatives of all rows among the same texts, "
            "and a batch of a mixture has texts of one source\n"
            "fix: remove negatives, and mine those of a source into a file before training: cse mine"
        )
    shaped = similarities(run)
    if len(set(shaped.values())) > 1:
        yield (
            f"the objectives of the sources shape different similarities: {', '.join(map(': '.join, shaped.items()))}\n"
            "fix: give all sources objectives of one similarity, in which the vectors are then compared"
        )
    objectives = [source.objective for source in sources(run).values()]
    trained = any(objective.trains_vectors for objective in objectives)
    if not trained and [*run.encoder.head.parameters(), *run.encoder.post.parameters()]:
        name = type(run.objective).__name__
        yield (
            "nothing would train encoder.head or a Dense after pooling: "
            f"objective {name} does not use sentence vectors\n"
            "fix: remove encoder.head and encoder.export_head, or give a model without Dense"
        )


def _of_views(run: Run) -> Iterator[str]:
    try:
        same = run.collator.needs_dropout(_first_row(run))
    except UserError as error:  # rows and collator do not fit
        yield str(error)
        same = False
    if same and not run.encoder.has_dropout:
        yield (
            "the encoder has no dropout, and the views of a text differ by nothing else: positives would be identical\n"
            "fix: set encoder.dropout.attention or encoder.dropout.embedding above 0, or augment the views"
        )
    if run.collator.max_length > run.encoder.max_positions:
        yield (
            f"collator.max_length is {run.collator.max_length}, but {run.encoder.source} has positions for "
            f"{run.encoder.max_positions} tokens\n"
            f"fix: set collator.max_length to {run.encoder.max_positions} or less"
        )


def _of_prompts(run: Run) -> Iterator[str]:
    """Prompts that the encoder does not have, or that no text of the data would get."""
    encoder, row = run.encoder, _first_row(run)
    asked = {f"collator.prompts.{role}": name for role, name in run.collator.prompts.items()}
    asked["evaluator.prompt"] = run.evaluator.prompt if run.evaluator is not None else None
    for option, name in asked.items():
        try:
            choose_prompt(encoder.prompts, encoder.default_prompt_name, name, option=option)
        except UserError as error:
            yield str(error)
    hard = len(row.texts) > 1 + row.num_positives or run.data.ragged or run.source.hard_negatives > 0
    has = {"anchor": True, "positive": len(row.texts) > 1, "negative": hard}
    for role in run.collator.prompts:
        if not has[role]:
            roles = " and ".join(name for name, there in has.items() if there)
            yield (
                f"collator.prompts.{role} is {run.collator.prompts[role]!r}, but the rows of {run.data.describe()} "
                f"have the role {roles} only\n"
                f"fix: remove {role} from collator.prompts, or name its column in data.columns"
            )


def _first_row(run: Run) -> Example:
    """The first row, with other texts in the place of the positives that a source of rows gives it."""
    row, others = run.data[0], run.data[1 : 1 + run.source.positives]
    return replace(row, texts=(*row.texts, *(other.texts[0] for other in others))) if others else row


def _of_objective(run: Run) -> Iterator[str]:
    name = type(run.objective).__name__
    missing = sorted(run.objective.requires - run.collator.provides)
    if missing:
        yield (
            f"objective {name} needs Batch.{', Batch.'.join(missing)}, "
            f"which collator {type(run.collator).__name__} does not provide\n"
            "fix: use a collator that provides it, or another objective"
        )
    for field, option in OF_ROWS.items():
        if field in run.objective.requires and getattr(run.data[0], field) is None:
            yield (
                f"objective {name} needs a {field} in every row, and {run.data.describe()} has none\n"
                f"fix: name its column: --data.{option}, or use another objective"
            )
    found, known = run.data.labels(), run.objective.labels
    if found is not None and known is not None and int(found.max()) >= known:
        yield (
            f"objective {name} tells {known} labels apart, and {run.data.describe()} has {int(found.max()) + 1}\n"
            f"fix: set objective.types to {int(found.max()) + 1}"
        )
    if run.settings.caching is not None and not run.objective.cacheable:
        option = "chunk_size" if run.settings.chunk_tokens is None else "chunk_tokens"
        yield (
            f"trainer.{option} is {getattr(run.settings, option)}, but objective {name} encodes more than the views of "
            f"the batch, so its gradient cannot be cached\nfix: remove trainer.{option}"
        )
    if run.settings.gradient_checkpointing and (reason := run.encoder.cannot_recompute()):
        yield f"trainer.gradient_checkpointing: {reason}\nfix: remove trainer.gradient_checkpointing"
    kernel, settings = run.encoder.attention_kernel, run.settings
    if kernel in PACKAGES and hardware.mixed_precision(settings, available(settings.device)) == "no":
        yield (
            f"encoder.attention_kernel is {kernel}, which computes in 16 bits, and trainer.precision is "
            f"{settings.precision}\nfix: use trainer.precision=bf16 or fp16, or another kernel"
        )
    if run.settings.compile and (reason := run.encoder.cannot_compile()):
        yield f"trainer.compile: {reason}\nfix: remove trainer.compile"


def _of_values(run: Run) -> Iterator[str]:
    """Values of rows that the objective does not use."""
    name = type(run.objective).__name__
    if "weight" in run.data.value_names and not run.objective.weighs_rows:
        yield (
            f"data.weight_column gives rows weights, which objective {name} does not use\n"
            "fix: remove data.weight_column, or use an objective that weighs rows, such as SimCSE"
        )
    if "weight" in run.data.value_names and not any(row.weight for row in run.data):
        yield (
            f"data.weight_column: every row of {run.data.describe()} has the weight 0, so nothing would be learned\n"
            "fix: give weights above 0, or remove data.weight_column"
        )
    if "relevance" in run.data.value_names and "relevance" not in run.objective.requires:
        yield (
            f"data.relevance_columns grades the positives, which objective {name} does not use\n"
            "fix: remove data.relevance_columns, or use an objective that reads them, such as GradedGCL"
        )
    if "teacher" in run.data.value_names and "teacher" not in run.objective.requires:
        yield (
            f"data.teacher_columns gives the numbers of a teacher, which objective {name} does not use\n"
            "fix: remove data.teacher_columns, or use an objective that reads them, such as MarginMSE"
        )
    if "teacher" in run.data.value_names and run.data.ragged:
        yield (
            "data.teacher_columns has numbers in the order of the texts, and rows of "
            f"{run.data.describe()} have unequal numbers of texts\nfix: give every row as many hard negatives"
        )


def _of_batch(run: Run) -> Iterator[str]:
    settings = run.settings
    if problem := indivisible(settings, distributed.world_size()):
        yield problem
    if len(run.data) < settings.batch_size:
        yield (
            f"trainer.batch_size is {settings.batch_size}, but {run.data.describe()} has {len(run.data)} rows\n"
            "fix: use a smaller trainer.batch_size or more data"
        )


def indivisible(settings: Settings, processes: int) -> str | None:
    """Say that a batch cannot be divided among the processes, if it cannot."""
    parts = processes * settings.accumulation
    if settings.batch_size % parts == 0:
        return None
    return (
        f"trainer.batch_size is {settings.batch_size}, which cannot be divided into "
        f"{settings.accumulation} accumulated parts on {processes} processes\n"
        f"fix: set trainer.batch_size to a multiple of {parts}"
    )


@torch.no_grad()
def rehearse(learner: Learner, batch: Batch, ctx: StepContext, settings: Settings) -> None:
    """Take a loss once, so that the objective can refuse a batch (`UserError`) before training starts."""
    learner.eval()
    encoded, objective = None, learner.objective_of(batch)
    if objective.cacheable:
        # The loss sees the encoder through the views only, so random views will do. Encoding one row gives their shape.
        one, _ = learner(gradcache.by_size(batch, 1)[0].batch)
        encoded = Encoded(*(torch.randn(batch.size, *t.shape[1:], device=t.device) for t in one))
    try:
        learner(batch, ctx, encoded)
    except RuntimeError as error:
        if "DTensor" not in str(error):
            raise
        raise UserError(
            f"objective {type(objective).__name__} reads weights of the encoder's layers, of which every process has a "
            f"share only under trainer.parallel={settings.parallel}\nfix: use trainer.parallel=ddp"
        ) from error
    except ValueError as error:
        raise UserError(
            f"objective {type(objective).__name__}: {error} "
            f"(trainer.batch_size {settings.batch_size}, trainer.accumulation {settings.accumulation})\n"
            "fix: give data, a collator and a batch size that suit this objective"
        ) from error
