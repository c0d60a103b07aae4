"""What tests of objectives share: batches without tokens, comparison at the oracles' tolerance."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from cse.batch import Batch, Views
from cse.interfaces import StepContext


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


def batch_of(size, views, positives=1, **fields):
    """A batch whose tokens nobody reads."""
    ids = torch.zeros(size, views, 1, dtype=torch.int64)
    return Batch(input_ids=ids, attention_mask=torch.ones_like(ids), num_positives=positives, **fields)


def run(objective, rows, positives=1, generator=None, **fields):
    """The objective's output on rows (B, V, D)."""
    batch = batch_of(rows.shape[0], rows.shape[1], positives, **fields)
    return objective(Views.split(rows, rows, positives), batch, StepContext(encoder=None, generator=generator))


def close(got, want, tolerance=1e-4):
    """Largest difference at most `tolerance` of the largest value."""
    got, want = np.asarray(got.detach() if isinstance(got, torch.Tensor) else got), np.asarray(want)
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= tolerance * max(1.0, np.abs(want).max())


def vectors(data):
    """The rows (B, V, D) of a case whose inputs are vectors, and its leaves: x, or anchor, positive and negative."""
    leaves = {n: data[n].requires_grad_() for n in ("anchor", "positive", "negative", "x") if n in data}
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
