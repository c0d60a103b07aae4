"""SimCSE against its authors' program (oracles), pencil and limits."""

import math

import pytest
import torch
from torch.nn.functional import linear

from cse.encoder.poolers import get_pooler
from cse.errors import UserError
from cse.objectives.simcse import SimCSE
from tests.cases import cases, load
from tests.objectives.helpers import agrees, run

POOLERS = {
    "cls": "cls",
    "cls_before_pooler": "cls",
    "avg": "mean",
    "avg_top2": "mean_last_two",
    "avg_first_last": "first_last_layer1",
}


def loss_of(rows, views, objective, **fields):
    """Loss of flat rows (B V, D), row = item * V + view."""
    return run(objective, rows.unflatten(0, (-1, views)), **fields).loss


@pytest.mark.parametrize("name", cases("simcse", "unsup", "sup"))
def test_every_case_of_pooler_head_and_loss(name):
    about, data = load("simcse", name)
    states = [f"hs{i}" for i in range(sum(key.startswith("hs") for key in data))]
    leaves = {key: data[key].requires_grad_() for key in (*states, "mlp_w", "mlp_b") if key in data}
    pooled = get_pooler(POOLERS[about["pooler"]])([leaves[key] for key in states], data["mask"])
    rows = torch.tanh(linear(pooled, leaves["mlp_w"], leaves["mlp_b"])) if "mlp_w" in data else pooled
    objective = SimCSE(temperature=about["temp"], hard_negative_weight=about["hard_negative_weight"])
    known = {name: leaf for name, leaf in leaves.items() if f"grad_{name}" in data}
    assert known
    agrees(loss_of(rows, about["S"], objective), about, data, known)


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
