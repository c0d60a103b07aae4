"""Gradient caching: large batches in the memory of a small one (Gao et al., 2021, arXiv:2101.06983).

The batch is encoded in chunks without gradient, the loss is taken on all embeddings at once, and each chunk is encoded
again, under the same dropout, to carry the embeddings' gradient into the weights. It works for any objective that is a
function of embeddings (`Objective.cacheable`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from cse.batch import Batch, LossOutput
from cse.interfaces import StepContext
from cse.training.learner import Encoded, Learner


def backward(
    accelerator: Accelerator,
    learner: nn.Module,
    batch: Batch,
    ctx: StepContext,
    *,
    chunk_size: int,
    seed: Callable[[int], None],
    accumulation: int = 1,
) -> tuple[Encoded, LossOutput]:
    """Add the batch's gradient to the weights, encoding `chunk_size` rows at a time.

    Args:
        accelerator: The accelerator that prepared the learner.
        learner: A `Learner`, wrapped if there are several processes.
        batch: This process's share of the batch.
        ctx: The context of the step.
        chunk_size: Rows (anchors with all their views) to encode together.
        seed: Seeds dropout for a chunk: the same chunk draws the same masks in both passes.
        accumulation: Number of such batches in an optimizer step, which takes the mean of their gradients.

    Returns:
        The embeddings and the loss, detached.
    """
    chunks = split(batch, chunk_size)
    with torch.no_grad():
        parts = [_encode(learner, chunk, seed, i) for i, chunk in enumerate(chunks)]
    encoded = Encoded(*(torch.cat(part).requires_grad_() for part in zip(*parts, strict=True)))
    with accelerator.no_sync(learner):
        seed(len(chunks))  # for dropout in the objective, apart from that of the chunks
        _, output = learner(batch, ctx, encoded)
        accelerator.backward(output.loss / accumulation)
    gradients = [[_gradient(t)[i : i + chunk_size] for t in encoded] for i in range(0, batch.size, chunk_size)]
    for i, (chunk, gradient) in enumerate(zip(chunks, gradients, strict=True)):
        final = i == len(chunks) - 1
        with nullcontext() if final else accelerator.no_sync(learner):
            again = _encode(learner, chunk, seed, i)
            # Its gradient is what the chain rule carries from the embeddings of this chunk into the weights.
            terms = [(e * g.to(e.dtype)).sum() for e, g in zip(again, gradient, strict=True)]
            surrogate = torch.stack([*terms, _touch(learner, batch)] if final else terms).sum()
            torch.autograd.backward(surrogate)  # not by the accelerator: in fp16 these gradients are scaled already
    return Encoded(*(t.detach() for t in encoded)), LossOutput(output.loss.detach(), output.metrics)


def split(batch: Batch, size: int) -> list[Batch]:
    """The batch in pieces of at most `size` rows."""
    pieces = {name: tensor.split(size) for name, tensor in batch.tensors().items()}  # type: ignore[no-untyped-call]
    count = -(-batch.size // size)
    return [batch.with_tensors({name: piece[i] for name, piece in pieces.items()}) for i in range(count)]


def _encode(learner: nn.Module, chunk: Batch, seed: Callable[[int], None], index: int) -> Encoded:
    seed(index)
    encoded: Encoded = learner(chunk)[0]
    return encoded


def _gradient(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad


def _touch(learner: nn.Module, batch: Batch) -> Tensor:
    """0 as a function of the objective's weights. They have their gradient already, but DDP waits for every weight.

    DDP that looks for unused weights does not wait: it has seen that these were used.
    """
    if getattr(learner, "find_unused_parameters", False):
        return torch.zeros(())
    inner = learner if isinstance(learner, Learner) else learner.module
    assert isinstance(inner, Learner)
    trained = [p for p in inner.objective_of(batch).parameters() if p.requires_grad]
    return torch.stack([0.0 * p.sum() for p in trained] or [torch.zeros(())]).sum()
