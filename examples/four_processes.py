"""What each trainer computes on four GPUs: its gradient beside that of one process with all the pairs.

Four processes with 8 pairs each contrast the questions with the answers, and the gradients of their losses are
averaged, as DistributedDataParallel does. The first rows follow the formula that each project publishes (read in the
summer of 2026), computed here in one process; the last one is cse itself, in four real ones.

    python examples/four_processes.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import Tensor

from cse import SimCSE
from cse.batch import Batch
from cse.interfaces import StepContext
from cse.training.learner import Encoded, gather_views

PROCESSES, PAIRS, DIM, TEMPERATURE = 4, 8, 32, 0.05


def texts() -> Tensor:
    """(W, b, 2, D) what stands for texts: a question, and an answer that resembles it."""
    random = torch.Generator().manual_seed(0)
    question = torch.randn(PROCESSES, PAIRS, DIM, generator=random, dtype=torch.float64)
    noise = torch.randn(PROCESSES, PAIRS, DIM, generator=random, dtype=torch.float64)
    return torch.stack([question, question + noise], dim=2)


def weights() -> Tensor:
    """(D, D) the weights of the encoder, which is one matrix."""
    random = torch.Generator().manual_seed(1)
    return torch.randn(DIM, DIM, generator=random, dtype=torch.float64, requires_grad=True)


def loss(question: Tensor, answer: Tensor, first: int = 0) -> Tensor:
    """The mean cross-entropy of the questions (b, D), where the answer of question i is number first + i of (N, D)."""
    logits = question @ answer.T / TEMPERATURE  # (b, N)
    return F.cross_entropy(logits, torch.arange(len(question)) + first)


def one_process(question: Tensor, answer: Tensor) -> Tensor:
    """All pairs in one batch."""
    return loss(question.flatten(0, 1), answer.flatten(0, 1))


def local(question: Tensor, answer: Tensor) -> Tensor:
    """Negatives of the own process only."""
    return torch.stack([loss(q, a) for q, a in zip(question, answer, strict=True)]).mean()


def own_part(question: Tensor, answer: Tensor, factor: int) -> Tensor:
    """Everything is gathered, and only the own part has a gradient; each process computes the whole loss, x factor."""
    losses = []
    for rank in range(PROCESSES):
        mine = torch.arange(PROCESSES)[:, None, None] == rank
        q, a = (torch.where(mine, side, side.detach()).flatten(0, 1) for side in (question, answer))
        losses.append(factor * loss(q, a))
    return torch.stack(losses).mean()


def gathered_answers(question: Tensor, answer: Tensor, detached: bool) -> Tensor:
    """Own questions against the answers of all; those of the other processes have a gradient, or none."""
    losses = []
    for rank in range(PROCESSES):
        mine = torch.arange(PROCESSES)[:, None, None] == rank
        every = torch.where(mine, answer, answer.detach()) if detached else answer
        losses.append(loss(question[rank], every.flatten(0, 1), rank * PAIRS))
    return torch.stack(losses).mean()


def gradient_of_cse(rank: int, folder: str) -> None:
    """Compute the gradient as this process of four, average it, and let the first one write it."""
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=PROCESSES)
    encoder = weights()
    vectors = texts()[rank] @ encoder  # (b, 2, D)
    ids = torch.zeros(PAIRS, 2, 1, dtype=torch.long)
    batch = Batch(input_ids=ids, attention_mask=torch.ones_like(ids))
    views = gather_views(Encoded(vectors, vectors), num_positives=1)
    SimCSE(temperature=TEMPERATURE)(views, batch, StepContext(encoder=None)).loss.backward()
    dist.all_reduce(encoder.grad)
    if rank == 0:
        torch.save(encoder.grad / PROCESSES, Path(folder) / "gradient.pt")
    dist.destroy_process_group()


def gradients() -> dict[str, Tensor]:
    """The gradient (D, D) by each project's formula; the first is that of one process."""
    schemes = {
        "one process": one_process,
        "Tevatron: gathers, own part x W": lambda q, a: own_part(q, a, PROCESSES),
        "sentence-transformers, gather_across_devices": lambda q, a: gathered_answers(q, a, detached=False),
        "FlagEmbedding, negatives_cross_device; SimCSE": lambda q, a: own_part(q, a, 1),
        "NeMo AutoModel, in-batch negatives on": lambda q, a: gathered_answers(q, a, detached=True),
        "sentence-transformers by default: local negatives": local,
    }
    found = {}
    for name, scheme in schemes.items():
        encoder = weights()
        vectors = F.normalize(texts() @ encoder, dim=-1)  # (W, b, 2, D)
        scheme(vectors[:, :, 0], vectors[:, :, 1]).backward()
        found[name] = encoder.grad
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(gradient_of_cse, args=(folder,), nprocs=PROCESSES)
        found["this package, in four processes"] = torch.load(Path(folder) / "gradient.pt", weights_only=True)
    return found


def main() -> None:
    """Print the length of each gradient, its cosine with that of one process, and its relative error."""
    every = gradients()
    exact = every["one process"]
    print(f"{'':50} {'length':>7} {'cosine':>7} {'error':>7}")
    for name, gradient in every.items():
        length = gradient.norm() / exact.norm()
        cosine = F.cosine_similarity(gradient.flatten(), exact.flatten(), dim=0)
        error = (gradient - exact).norm() / exact.norm()
        print(f"{name:50} {length:7.3f} {cosine:7.3f} {error:7.1%}")


if __name__ == "__main__":
    main()
