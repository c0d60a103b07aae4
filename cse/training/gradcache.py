"""Gradient caching: large batches in the memory of a small one (Gao et al., 2021, arXiv:2101.06983).

The batch is encoded in chunks without gradient, the loss is taken on all embeddings at once, and each chunk is encoded
again, under the same dropout, to carry the embeddings' gradient into the weights. It works for any objective that is a
function of embeddings (`Objective.cacheable`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from cse.batch import Batch, LossOutput
from cse.encoder.device import placed
from cse.interfaces import StepContext
from cse.training.learner import Encoded, Learner


class Chunk(NamedTuple):
    """Texts that are encoded together."""

    batch: Batch  # the texts, as rows of a batch
    texts: Tensor  # (n,) their places among the b V texts of the batch, row by row


def backward(
    accelerator: Accelerator,
    learner: nn.Module,
    batch: Batch,
    ctx: StepContext,
    *,
    chunk_size: int | None = None,
    chunk_tokens: int | None = None,
    seed: Callable[[int], None],
    accumulation: int = 1,
) -> tuple[Encoded, LossOutput]:
    """Add the batch's gradient to the weights, encoding a chunk of the batch at a time.

    Args:
        accelerator: The accelerator that prepared the learner.
        learner: A `Learner`, wrapped if there are several processes, which may have unequal numbers of chunks.
        batch: This process's share of the batch.
        ctx: The context of the step.
        chunk_size: Rows (anchors with all their views) of a chunk.
        chunk_tokens: Most tokens of a chunk with its padding, instead of `chunk_size`. See `by_tokens`.
        seed: Seeds dropout for a chunk: the same chunk draws the same masks in both passes.
        accumulation: Number of such batches in an optimizer step, which takes the mean of their gradients.

    Returns:
        The embeddings and the loss, detached.
    """
    chunks = by_size(batch, chunk_size or batch.size) if chunk_tokens is None else by_tokens(batch, chunk_tokens)
    chunks = [Chunk(chunk, placed(texts, ctx.encoder.device)) for chunk, texts in chunks]
    with torch.no_grad():
        encoded = _kept(learner, batch, chunks, seed)
    with accelerator.no_sync(learner):
        seed(len(chunks))  # for dropout in the objective, apart from that of the chunks
        _, output = learner(batch, ctx, encoded)
        accelerator.backward(output.loss / accumulation)
    gradients = [_gradient(t).flatten(0, 1) for t in _distinct(encoded)]  # (b V, D') and (b V, D)
    for i, (chunk, texts) in enumerate(chunks):
        final = i == len(chunks) - 1
        with nullcontext() if final else accelerator.no_sync(learner):
            # DDP may give one tensor back as two, so the number of them is that of the first pass.
            again = [t.flatten(0, 1) for t in _encode(learner, chunk, seed, i)[: len(gradients)]]
            # Its gradient is what the chain rule carries from the embeddings of this chunk into the weights.
            terms = [(e * g[texts].to(e.dtype)).sum() for e, g in zip(again, gradients, strict=True)]
            surrogate = torch.stack([*terms, *(_touch(learner, batch) if final else [])]).sum()
            torch.autograd.backward(surrogate)  # not by the accelerator: in fp16 these gradients are scaled already
    found = [t.detach() for t in _distinct(encoded)]
    return Encoded(found[0], found[-1]), LossOutput(output.loss.detach(), output.metrics)


def by_size(batch: Batch, size: int) -> list[Chunk]:
    """The batch in chunks of at most `size` rows, with the padding of the batch."""
    pieces = {name: tensor.split(size) for name, tensor in batch.tensors().items()}  # type: ignore[no-untyped-call]
    every = torch.arange(batch.size * batch.views)
    places = every.split(size * batch.views)  # type: ignore[no-untyped-call]
    return [
        Chunk(batch.with_tensors({name: piece[i] for name, piece in pieces.items()}), place)
        for i, place in enumerate(places)
    ]


def by_tokens(batch: Batch, tokens: int) -> list[Chunk]:
    """The batch's texts in chunks of at most `tokens` tokens, of texts of similar length.

    The texts are sorted by length, longest first, and each chunk has the padding of its own longest text. Texts of a
    row may be in different chunks. A text that is longer than `tokens` is a chunk of its own.
    """
    ids, mask = batch.input_ids.flatten(0, 1), batch.attention_mask.flatten(0, 1)  # (b V, L)
    length = mask.sum(1).clamp_min(1)  # (b V,)
    order = length.argsort(descending=True, stable=True)
    sorted_length, chunks, start = length[order].tolist(), [], 0
    while start < len(order):
        longest = sorted_length[start]
        texts = order[start : start + max(1, tokens // longest)]
        part, present = (t[texts, None, :longest] for t in (ids, mask))  # (n, 1, L')
        chunks.append(Chunk(Batch(part, present, num_positives=0, source=batch.source), texts))
        start += len(texts)
    return chunks


def _kept(learner: nn.Module, batch: Batch, chunks: list[Chunk], seed: Callable[[int], None]) -> Encoded:
    """The embeddings of all chunks, as leaves (b, V, D') and (b, V, D) that a gradient can reach; one if they are one.

    They are written to their places as they come, so that no second copy of them exists.
    """
    kept: list[Tensor] = []
    for i, (chunk, texts) in enumerate(chunks):
        found = [t.flatten(0, 1) for t in _distinct(_encode(learner, chunk, seed, i))]
        kept = kept or [t.new_empty(batch.size * batch.views, t.shape[1]) for t in found]
        for whole, part in zip(kept, found, strict=True):
            whole[texts] = part
    leaves = [t.view(batch.size, batch.views, -1).requires_grad_() for t in kept]
    return Encoded(leaves[0], leaves[-1])


def _distinct(encoded: Encoded) -> list[Tensor]:
    """The two tensors, or the one that both are."""
    return list(encoded)[:1] if encoded.projected is encoded.embedding else list(encoded)


def _encode(learner: nn.Module, chunk: Batch, seed: Callable[[int], None], index: int) -> Encoded:
    seed(index)
    return learner(chunk)[0]


def _gradient(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad


def _touch(learner: nn.Module, batch: Batch) -> list[Tensor]:
    """Zeros, functions of the objective's weights. They have their gradient already, but DDP waits for every weight.

    DDP that looks for unused weights does not wait: it has seen that these were used.
    """
    if getattr(learner, "find_unused_parameters", False):
        return []
    inner = learner if isinstance(learner, Learner) else learner.module
    assert isinstance(inner, Learner)
    trained = [p for p in inner.objective_of(batch).parameters() if p.requires_grad]
    return [0.0 * p.sum() for p in trained]
