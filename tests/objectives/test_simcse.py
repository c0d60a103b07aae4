"""SimCSE against its authors' program (oracles), pencil and limits."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from cse.batch import Batch, Views
from cse.encoder.poolers import get_pooler
from cse.errors import UserError
from cse.interfaces import StepContext
from cse.objectives.simcse import SimCSE

POOLERS = {
    "cls": "cls",
    "cls_before_pooler": "cls",
    "avg": "mean",
    "avg_top2": "mean_last_two",
    "avg_first_last": "first_last_layer1",
}


def settings(oracles):
    return json.loads((oracles / "simcse.json").read_text())


def batch_of(size, views, **fields):
    ids = torch.zeros(size, views, 1, dtype=torch.int64)
    return Batch(input_ids=ids, attention_mask=torch.ones_like(ids), num_positives=1, **fields)


def loss_of(rows, views, objective, **fields):
    """Loss of flat rows (B V, D), row = item * V + view."""
    stacked = rows.view(-1, views, rows.shape[-1])
    return objective(
        Views.split(stacked, stacked, 1), batch_of(len(stacked), views, **fields), StepContext(encoder=None)
    ).loss


def close(got, want, tolerance=1e-4):
    got, want = np.asarray(got), np.asarray(want)
    assert np.abs(got - want).max() <= tolerance * max(1.0, np.abs(want).max())


def test_every_case_of_pooler_head_and_loss(oracles):
    cases = {n: c for n, c in settings(oracles).items() if "pooler" in c}
    assert cases
    for name, case in cases.items():
        data = np.load(oracles / f"simcse_{name}.npz")
        states = [
            torch.tensor(data[f"hs{i}"]).requires_grad_() for i in range(sum(k.startswith("hs") for k in data.files))
        ]
        pooled = get_pooler(POOLERS[case["pooler"]])(states, torch.tensor(data["mask"]))
        head = {k: torch.tensor(data[k]).requires_grad_() for k in ("mlp_w", "mlp_b") if k in data.files}
        rows = torch.tanh(torch.nn.functional.linear(pooled, head["mlp_w"], head["mlp_b"])) if head else pooled
        objective = SimCSE(temperature=case["temp"], hard_negative_weight=case["hard_negative_weight"])
        loss = loss_of(rows, case["S"], objective)
        loss.backward()
        assert loss.item() == pytest.approx(case["loss"], rel=1e-5), name
        for key in data.files:
            if key.startswith("grad_hs"):
                close(states[int(key.removeprefix("grad_hs"))].grad, data[key])
            elif key.startswith("grad_mlp"):
                close(head[key.removeprefix("grad_")].grad, data[key])


def test_by_pencil():
    # Two rows, orthogonal anchors, each positive equal to its anchor: logits [[2, 0], [0, 2]] at temperature 0.5
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert loss_of(rows, 2, SimCSE(temperature=0.5)).item() == pytest.approx(math.log(1 + math.exp(-2)), rel=1e-6)


def test_hard_negative_bonus_by_pencil():
    # All vectors alike, so every logit is 1 / t. Two rows, one negative each: 4 candidates, one weighing e^w.
    rows = torch.ones(6, 3)
    weight = math.log(5.0)
    got = loss_of(rows, 3, SimCSE(hard_negative_weight=weight)).item()
    assert got == pytest.approx(math.log(3 + 5.0), rel=1e-5)


def test_a_hard_negative_that_is_masked_equals_none_at_all():
    rows = torch.randn(4, 3, 8)
    absent = torch.tensor([[True, True, False]] * 4)
    with_mask = loss_of(rows.flatten(0, 1), 3, SimCSE(), view_mask=absent)
    without = loss_of(rows[:, :2].flatten(0, 1), 2, SimCSE())
    assert with_mask.item() == pytest.approx(without.item(), rel=1e-6)


def test_a_text_is_never_its_own_negative():
    rows = torch.randn(3, 2, 8)
    twice = torch.cat([rows, rows[:1]])  # the first text again
    ids = torch.tensor([[0, 0], [1, 1], [2, 2], [0, 0]])
    got = loss_of(twice.flatten(0, 1), 2, SimCSE(), text_id=ids)
    scores = cosines(twice) / 0.05
    scores[0, 3] = scores[3, 0] = -math.inf
    assert got.item() == pytest.approx(torch.nn.functional.cross_entropy(scores, torch.arange(4)).item(), rel=1e-5)


def test_an_anchor_of_the_same_text_lends_its_positive():
    """Triplets: rows 0 and 1 share the anchor's text, so neither's positive is the other's negative."""
    rows = torch.randn(3, 3, 8)
    ids = torch.tensor([[0, 1, 2], [0, 3, 4], [5, 6, 7]])
    got = loss_of(rows.flatten(0, 1), 3, SimCSE(), text_id=ids)
    a, c = rows[:, 0], torch.cat([rows[:, 1], rows[:, 2]])
    scores = torch.nn.functional.cosine_similarity(a[:, None], c[None], dim=-1) / 0.05
    scores[0, 1] = scores[1, 0] = -math.inf
    assert got.item() == pytest.approx(torch.nn.functional.cross_entropy(scores, torch.arange(3)).item(), rel=1e-5)


def cosines(rows):
    return torch.nn.functional.cosine_similarity(rows[:, None, 0], rows[None, :, 1], dim=-1)


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_temperature_must_be_positive(temperature):
    with pytest.raises(UserError, match="temperature"):
        SimCSE(temperature=temperature)


def test_a_batch_of_one_is_refused():
    with pytest.raises(ValueError, match="batch_size is 1"):
        loss_of(torch.randn(2, 4), 2, SimCSE())
