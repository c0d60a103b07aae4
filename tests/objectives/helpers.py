"""What tests of objectives share: batches without tokens, comparison at the oracles' tolerance."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from cse.batch import Batch, Views
from cse.interfaces import StepContext
from tests.conftest import ORACLES


@dataclass
class Case:
    """How the contract tests build an objective and its rows, for objectives that the defaults do not fit.

    The test file of an objective declares it: `def contract_case(backbone): return Case({"temperature": 0.1})`, where
    `backbone` is the folder of a tiny BERT.

    Attributes:
        arguments: The arguments of the constructor.
        texts: Texts of a row: anchor, positive and hard negative by default.
        teacher: Numbers that a teacher gave each row (`Batch.teacher`).
    """

    arguments: dict = field(default_factory=dict)
    texts: int = 3
    teacher: int = 2


def settings(oracles, method):
    """The cases of a method."""
    return json.loads((oracles / f"{method}.json").read_text())


def oracle_cases(method, **about):
    """The names of a method's oracles that have a loss, and these settings; none without the oracles' folder."""
    if not (ORACLES / f"{method}.json").is_file():
        return []
    found = settings(ORACLES, method)
    cases = {n: c for n, c in found.items() if isinstance(c, dict) and "loss" in c}
    return [n for n, case in cases.items() if all(case.get(k) == v for k, v in about.items())]


def cases_named(method, beginning):
    """The names of a method's oracles that begin so; none without the oracles' folder."""
    found = settings(ORACLES, method) if (ORACLES / f"{method}.json").is_file() else []
    return [name for name in found if name.startswith(beginning)]


def load(oracles, method, case):
    """The settings and the arrays of a case; those of floating point as float32."""
    arrays = np.load(oracles / f"{method}_{case}.npz")
    return settings(oracles, method)[case], {name: torch.tensor(arrays[name]) for name in arrays.files}


def assert_pairs_match(objective, about, data, suffix="", factor=1):
    """Loss and gradients of pairs, times a factor, are those of a case; `suffix` names its gradients."""
    anchor, positive = (data[name].clone().requires_grad_() for name in ("anchor", "positive"))
    output = run(objective, torch.stack([anchor, positive], 1))
    loss = factor * output.loss
    assert loss.item() == pytest.approx(about["loss"], rel=1e-5)
    loss.backward()
    close(anchor.grad, data[f"grad_anchor{suffix}"])
    close(positive.grad, data[f"grad_positive{suffix}"])
    return output


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


def raw_cases(oracles, method):
    """Of each case of a method whose oracle gives vectors: name, settings, arrays, leaves by name, rows (B, V, D)."""
    cases = {n: c for n, c in settings(oracles, method).items() if isinstance(c, dict) and "loss" in c}
    assert cases
    for name, case in cases.items():
        data = np.load(oracles / f"{method}_{name}.npz")
        names = [n for n in ("anchor", "positive", "negative", "x") if n in data.files]
        leaves = {n: torch.tensor(data[n]).requires_grad_() for n in names}
        yield name, case, data, leaves, torch.cat([t if t.dim() == 3 else t[:, None] for t in leaves.values()], 1)


def agrees(output, case, data, leaves):
    """The loss of a case to 1e-5 relative, and the gradients of its vectors to 1e-4."""
    output.loss.backward()
    assert abs(output.loss.item() - case["loss"]) <= 1e-5 * abs(case["loss"])
    for name, leaf in leaves.items():
        close(leaf.grad, data[f"grad_{name}"])
