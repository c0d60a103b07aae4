"""SimCSE against its authors' program (oracles), pencil and limits."""

import math

import pytest
import torch
from torch.nn.functional import linear

from cse.encoder.poolers import get_pooler
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


def test_an_anchor_of_the_same_text_lends_its_positive():
    """Triplets: rows 0 and 1 share the anchor's text, so neither's positive is the other's negative."""
    rows = torch.randn(3, 3, 8)
    ids = torch.tensor([[0, 1, 2], [0, 3, 4], [5, 6, 7]])
    got = loss_of(rows.flatten(0, 1), 3, SimCSE(), text_id=ids)
    a, c = rows[:, 0], torch.cat([rows[:, 1], rows[:, 2]])
    scores = torch.nn.functional.cosine_similarity(a[:, None], c[None], dim=-1) / 0.05
    scores[0, 1] = scores[1, 0] = -math.inf
    assert got.item() == pytest.approx(torch.nn.functional.cross_entropy(scores, torch.arange(3)).item(), rel=1e-5)
