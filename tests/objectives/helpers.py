"""What tests of objectives share: batches without tokens, comparison at the oracles' tolerance."""

from dataclasses import dataclass, field
from types import FunctionType, SimpleNamespace

import numpy as np
import pytest
import torch

import cse
from cse import Batch, Dropout, Encoder, Example, StepContext, Teacher, UserError, Views
from cse.data.tokens import TokenStore
from cse.seeding import seed_dropout
from cse.training.learner import Learner
from tests.cases import not_offered


@dataclass
class Case:
    """How the contract tests build an objective and its rows, for objectives that the defaults do not fit.

    The test file of an objective declares it: `def contract_case(backbone): return Case({"temperature": 0.1})`, where
    `backbone` is the folder of a tiny BERT.

    Attributes:
        arguments: The arguments of the constructor.
        texts: Texts of a row: anchor, positive and hard negative by default.
        teacher: Numbers that a teacher gave each row (`Batch.teacher`).
        even: Whether all rows need as many texts. Otherwise every third row lacks its last hard negative.
        refuses: Cases of `test_contract_degenerate.py` that the objective refuses, and what the error says.
    """

    arguments: dict = field(default_factory=dict)
    texts: int = 3
    teacher: int = 2
    even: bool = False
    refuses: dict[str, str] = field(default_factory=dict)


class Given(Teacher):
    """A teacher whose vectors are given."""

    def __init__(self, vectors):
        super().__init__()
        self.vectors = vectors

    def embed(self, batch, ctx):
        return self.vectors


def batch_of(size, views, positives=1, **fields):
    """A batch whose tokens nobody reads."""
    ids = torch.zeros(size, views, 1, dtype=torch.int64)
    return Batch(input_ids=ids, attention_mask=torch.ones_like(ids), num_positives=positives, **fields)


def run(objective, rows, positives=1, generator=None, **fields):
    """The objective's output on rows (B, V, D)."""
    batch = batch_of(rows.shape[0], rows.shape[1], positives, **fields)
    return objective(Views.split(rows, rows, positives), batch, StepContext(encoder=None, generator=generator))


def sized(kind, size, **arguments):
    """An objective that is set up for vectors of this size."""
    objective = kind(**arguments)
    objective.setup(SimpleNamespace(dim=size))
    return objective


def collated(encoder, rows, collator, length=12):
    """The batch that a collator makes of texts, one a row, or of rows of them."""
    rows = [(row,) if isinstance(row, str) else row for row in rows]
    collator.setup(TokenStore.build([text for row in rows for text in row], encoder.tokenizer, length), 1)
    return collator([Example(tuple(row), row_id=i) for i, row in enumerate(rows)])


def set_up(folder, objective, *, scale=1.0, **options):
    """An encoder without dropout, its weights multiplied so that texts are not all alike, and an objective for it."""
    seed_dropout("set up", type(objective).__name__)
    encoder = Encoder(folder, **{"dropout": Dropout(attention=0.0, hidden=0.0), **options})
    for weight in encoder.parameters():
        weight.data *= scale
    objective.setup(encoder)
    return encoder.train(), objective.train()


def padded(encoder, batch, extra):
    """A batch of tokens with as much more padding."""
    ids = torch.nn.functional.pad(batch.input_ids, (0, extra), value=encoder.tokenizer.pad_token_id)
    return Batch(ids, torch.nn.functional.pad(batch.attention_mask, (0, extra)), text_id=batch.text_id)


def weighted_and_repeated(batch):
    """The four rows of a batch with weights 2, 0, 1 and 0, and as many copies of each instead."""
    weighted = batch.with_tensors(batch.tensors() | {"weight": torch.tensor([2.0, 0.0, 1.0, 0.0])})
    return weighted, batch.with_tensors({n: t[[0, 0, 2]] for n, t in batch.tensors().items()})


def step(encoder, objective, batch, **ctx):
    """What the objective returns for a batch of tokens."""
    return Learner(encoder, objective)(batch, StepContext(encoder=encoder, **ctx))[1]


def close(got, want, tolerance=1e-4):
    """Largest difference at most `tolerance` of the largest value."""
    got, want = np.asarray(got.detach() if isinstance(got, torch.Tensor) else got), np.asarray(want)
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= tolerance * max(1.0, np.abs(want).max())


def vectors(data):
    """The rows (B, V, D) of a case of vectors, and its leaves: x, or u and v, or anchor, positive and negative."""
    leaves = {n: data[n].requires_grad_() for n in ("anchor", "positive", "negative", "x", "u", "v") if n in data}
    return torch.cat([leaf if leaf.dim() == 3 else leaf[:, None] for leaf in leaves.values()], 1), leaves


def agrees(output, about, data, leaves, *, loss="loss", suffix="", **metrics):
    """The loss and the metrics are those of a case to 1e-5 relative, and the gradients of its leaves to 1e-4.

    Args:
        output: What the objective returned, or its loss.
        about: The settings of the case.
        data: Its arrays.
        leaves: name -> the input or weight whose gradient is `grad_NAME` with the suffix, or `grad/NAME`.
        loss: The key of the loss.
        suffix: What the names of the gradients end in.
        metrics: name of a metric -> its key.
    """
    value = getattr(output, "loss", output)
    assert value.item() == pytest.approx(about[loss], rel=1e-5)
    for name, key in metrics.items():
        assert output.metrics[name].item() == pytest.approx(about[key], rel=1e-5), name
    value.backward()
    for name, leaf in leaves.items():
        close(leaf.grad, data[f"grad/{name}"] if f"grad/{name}" in data else data[f"grad_{name}{suffix}"])


def refuses(message, call, *args, **options):
    """A call fails with a message: with UserError for a constructor or `setup`, with ValueError for a function."""
    with pytest.raises(ValueError if isinstance(call, FunctionType) else UserError, match=message):
        call(*args, **options)


def inner(about, scored):
    """The objective that a case of Matryoshka wraps; of scored pairs, CoSENT or the regression of the cosine."""
    kinds = {"mnrl": cse.SimCSE, "symmetric": cse.SymmetricInfoNCE, "cosent": cse.CoSENT}
    if about["inner"] in kinds:
        return kinds[about["inner"]](temperature=about["inner_temperature"])
    return cse.CLAIF() if scored else not_offered(f"the inner loss {about['inner']}")
