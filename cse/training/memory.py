"""Out of memory on a GPU: what would fit there, by estimate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from cse import distributed
from cse.batch import Batch
from cse.errors import UserError
from cse.recipe.settings import Settings
from cse.training.learner import Learner

# Bytes that a layer keeps of a token for each of its H numbers, in 16 bits, where attention is fused; 2 of them are its
# input, all that recomputation keeps (Korthikanti et al., 2022, arXiv:2205.05198, equation 1 and section 4).
KEPT, INPUT = 34, 2
STATE = {"adamw": 8, "muon": 8, "adamw8bit": 2, "adafactor": 0}  # bytes of the optimizer for each weight
OTHERWISE = "use an adapter (--encoder.adapter=cse.encoder.Lora), a smaller model, or --trainer.parallel=fsdp"
MARGIN = 0.9  # of the room, for what is not counted


@contextmanager
def explained(learner: Learner, settings: Settings, part: Batch, step: int, *, wide: bool) -> Iterator[None]:
    """Turn a step that does not fit into a message (`UserError`) with the settings that would.

    A loss is taken of `part` (b, V, L); products are in 32 bits if they are `wide`.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        total, fixed = torch.cuda.mem_get_info()[1], of_weights(learner, settings)
        encoder = learner.encoder
        of_token = encoder.backbone.config.hidden_size * (2 if wide else 1)
        options = fitting(
            settings,
            rows=part.size,
            of_row=part.views * part.input_ids.shape[-1],
            kept=of_token * KEPT * encoder.depth,
            recomputed=of_token * (INPUT * encoder.depth + KEPT),
            room=total - fixed,
            cacheable=learner.objective_of(part).cacheable,
        )
        fix = f"by estimate, {' or '.join(options)} fits" if options else OTHERWISE
        raise UserError(
            f"out of memory at step {step}, on a GPU of {total / 2**30:.1f} GB: weights, gradients and the optimizer "
            f"take {fixed / 2**30:.1f} GB, and {part.size} rows of {part.views} texts of up to "
            f"{part.input_ids.shape[-1]} tokens do not fit beside them\n"
            f"fix: {fix}"
        ) from error


def of_weights(learner: Learner, settings: Settings) -> float:
    """The bytes of weights, gradients and the optimizer's state on one process."""
    trained = sum(p.numel() for p in learner.parameters() if p.requires_grad)
    size = sum(p.numel() * p.element_size() for p in learner.parameters())
    size += trained * (4 + STATE[settings.optimizer])
    return size / (distributed.world_size() if settings.parallel == "fsdp" else 1)


def fitting(
    settings: Settings, *, rows: int, of_row: int, kept: float, recomputed: float, room: float, cacheable: bool
) -> list[str]:
    """The options with each of which a step fits, as words of the command line; empty if none alone is enough.

    Args:
        settings: The settings, with which it does not fit.
        rows: The rows that are encoded for one loss, on one process.
        of_row: Tokens of a row, in all of its views.
        kept: Bytes that a token takes until the backward pass.
        recomputed: The same with `trainer.gradient_checkpointing`.
        room: The bytes beside weights, gradients and the optimizer.
        cacheable: Whether gradients can be cached.
    """
    now = recomputed if settings.gradient_checkpointing else kept
    tokens = min(rows * of_row, settings.chunk_tokens or (settings.chunk_size or rows) * of_row)
    more = max(1.0, room / (tokens * now))  # what did not fit takes the room at least

    def fits(tokens: int, of_token: float = now) -> bool:
        return more * tokens * of_token <= MARGIN * room

    def largest(most: int, least: int, of_one: int) -> int:
        """The largest power of two below `most` of which each takes `of_one` tokens and all fit; 0 below `least`."""
        sizes = (1 << n for n in reversed(range((most - 1).bit_length())))
        return next((size for size in sizes if size >= least and fits(size * of_one)), 0)

    found = []
    if not settings.gradient_checkpointing and fits(tokens, recomputed):
        found.append("--trainer.gradient_checkpointing=true")
    if cacheable and settings.parallel == "ddp" and (chunk := largest(tokens, of_row, 1)):
        found.append(f"--trainer.chunk_tokens={chunk}")
    if settings.caching is None and (fewer := largest(rows, 2, of_row)):
        found.append(f"--trainer.batch_size={fewer * distributed.world_size() * settings.accumulation}")
    return found
