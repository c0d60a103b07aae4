"""Poly-View: a direct loop (oracles), limits, properties."""

import math

import pytest
import torch

from cse import PolyView
from tests.cases import cases, load
from tests.objectives.helpers import agrees, run, vectors

FORMS = ("geometric", "arithmetic", "sufficient")


@pytest.mark.parametrize("name", cases("polyview"))
def test_every_case(name):
    about, data = load("polyview", name)
    rows, leaves = vectors(data)
    given = {key: about[key] for key in ("form", "temperature")}
    objective = PolyView(**given, normalize_mean=about.get("normalise_mean", True))
    agrees(run(objective, rows, rows.shape[1] - 1), about, data, leaves)


def losses(rows, positives, **fields):
    return [run(PolyView(form=form, temperature=0.2), rows, positives, **fields).loss.item() for form in FORMS]


def slow(rows, form, weight, negatives, twins):
    """View by view: items in `twins` have one text, and hard negatives are candidates of every view."""
    z = rows / rows.norm(dim=-1, keepdim=True)
    z, hard = z[:, : rows.shape[1] - negatives], z[:, rows.shape[1] - negatives :].flatten(0, 1)
    (size, count, _), total = z.shape, 0.0
    rest = torch.stack(
        [torch.stack([z[i, [b for b in range(count) if b != a]].mean(0) for a in range(count)]) for i in range(size)]
    )
    rest = rest / rest.norm(dim=-1, keepdim=True)
    others = rest if form == "sufficient" else z
    for i in range(size):
        foreign = [j for j in range(size) if j != i and not {i, j} <= twins]
        for a in range(count):
            below = sum(float((others[j] @ z[i, a] / 0.2).exp().sum()) for j in foreign)
            below += float((hard @ z[i, a] / 0.2).exp().sum())
            mine = rest[i, a : a + 1] if form == "sufficient" else z[i, [b for b in range(count) if b != a]]
            own = (mine @ z[i, a] / 0.2).exp()
            ratio = own / (own + below)
            row = ratio.mean().log() if form == "arithmetic" else ratio.log().mean()
            total -= weight[i] * float(row) / (count * sum(weight))
    return total


def test_weights_hard_negatives_and_texts_equal_a_direct_loop():
    rows, weight = torch.randn(4, 4, 6, dtype=torch.float64), [2.0, 1.0, 0.0, 0.5]
    texts = torch.tensor([[0, 0, 0, 4], [1, 1, 1, 5], [2, 2, 2, 6], [1, 1, 1, 7]])  # items 1 and 3 are one text
    got = losses(rows, 2, weight=torch.tensor(weight), text_id=texts)
    want = [slow(rows, form, weight, 1, {1, 3}) for form in FORMS]
    assert got == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("views", [3, 4])
def test_views_whose_mean_is_zero_have_a_gradient_of_usual_size(views):
    """Two or three of them point in opposite directions, and rounding leaves a mean of 1e-8."""
    turn = torch.arange(views - 1) * (2 * math.pi / (views - 1)) + 0.3
    others = torch.stack([turn.cos(), turn.sin(), 0 * turn], -1)
    rows = torch.cat([torch.randn(4, 1, 3), others.expand(4, -1, -1)], 1).requires_grad_()
    run(PolyView(form="sufficient"), rows, views - 1).loss.backward()
    assert rows.grad.abs().max() < 1e3
