"""SimCSE against its authors' program (oracles), pencil and limits."""

import math

import pytest
import torch
from torch.nn.functional import cosine_similarity, linear

from cse import SimCSE
from cse.encoder.poolers import get_pooler
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


@pytest.mark.parametrize("margin", [None, 0.0, 0.1, 2.0])
@pytest.mark.parametrize("negatives", ["all", "own"])
def test_the_negatives_that_count_by_a_slow_loop(negatives, margin):
    """Rows of an anchor, two positives and two hard negatives, of which some lack the last one."""
    rows = torch.randn(5, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    present, total, left = torch.ones(5, 5, dtype=torch.bool), 0.0, 0
    present[[1, 3], 4] = False
    for i in range(5):
        cosine = {
            (j, v): cosine_similarity(rows[i, 0], rows[j, v], dim=0)
            for j in range(5)
            for v in range(1, 5)
            if present[j, v] and (negatives == "all" or i == j)
        }
        own = [(i, 1), (i, 2)]
        limit = max(cosine[place] for place in own) + (4.0 if margin is None else margin)
        kept = [place for place in cosine if place in own or cosine[place] <= limit]
        left += len(cosine) - len(kept)
        log_sum = torch.stack([cosine[place] / 0.2 for place in kept]).logsumexp(0)
        total = total + sum(log_sum - cosine[place] / 0.2 for place in own) / 2
    objective = SimCSE(temperature=0.2, negatives=negatives, false_negative_margin=margin)
    got = run(objective, rows, 2, view_mask=present).loss
    assert got.item() == pytest.approx(total.item() / 5, rel=1e-9)
    assert (left > 0) == (margin in (0.0, 0.1))
    torch.testing.assert_close(
        *(torch.autograd.grad(loss, rows)[0] for loss in (got, total / 5)), rtol=1e-8, atol=1e-12
    )
    assert objective.contrasts == (negatives == "all")


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_weights_are_the_powers_of_what_a_softmax_leaves(gamma):
    rows = torch.randn(5, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    cosine = cosine_similarity(rows[:, None, 0], rows[None, :, 1], dim=-1)
    p = (cosine / 0.3).softmax(1).diagonal()
    got = run(SimCSE(temperature=0.3, focal=gamma), rows).loss
    assert got.item() == pytest.approx(((1 - p) ** gamma * -p.log()).mean().item(), rel=1e-9)


def test_a_row_that_is_solved_has_no_focal_gradient():
    rows = torch.eye(4)[:, None].repeat(1, 2, 1).requires_grad_()
    run(SimCSE(temperature=0.001, focal=0.5), rows).loss.backward()
    assert (rows.grad == 0).all()
