"""ArcCSE: loops over the paper's equations (oracles), pencil, limits."""

import math

import pytest
import torch
from torch.nn.functional import cosine_similarity

from cse.batch import Views
from cse.errors import UserError
from cse.objectives.arccse import ArcCSE
from cse.objectives.simcse import SimCSE
from tests.cases import cases, load
from tests.objectives.helpers import Case, agrees, batch_of, run


def contract_case(backbone):
    return Case(texts=4, even=True)


@pytest.mark.parametrize("name", cases("arccse"))
def test_every_case(name):
    """The oracle's triples are of other texts than its pairs, so each term is called alone, in its float64."""
    case, data = load("arccse", name)
    objective = ArcCSE(
        temperature=case["temperature"],
        margin=case["margin_degrees"],
        triplet_weight=case["triplet_weight"],
        triplet_margin=case["triplet_margin"],
    )
    data = {n: values.double() for n, values in data.items()}
    x, x_pos, anchor = (data[n].requires_grad_() for n in ("x", "x_pos", "t_anchor"))
    pairs = torch.stack([x, x_pos], 1)
    arc = objective.arc(Views.split(pairs, pairs, 1), batch_of(len(x), 2))
    order = objective.order(anchor, data["t_near"], data["t_far"])
    loss = arc + case["triplet_weight"] * order
    assert arc.item() == pytest.approx(case["arc"], rel=1e-5)
    assert order.item() == pytest.approx(case["triplet"], rel=1e-5)
    agrees(loss, case, data, {"x": x, "x_pos": x_pos, "t_anchor": anchor})


def circle(degrees):
    """Unit vectors (B, V, 2) at these angles."""
    radians = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return torch.stack([radians.cos(), radians.sin()], -1)


def test_by_pencil():
    # Pairs of 20 degrees, 90 degrees apart, so that with a margin of 40 the pair counts as 60 degrees, a cosine of 1/2.
    # The first row's renderings are 60 and 90 degrees away, the second's 90 and 60: hinges of 0 and 1/2.
    rows = circle([[0.0, 20.0, 60.0, 90.0], [90.0, 110.0, 180.0, 150.0]])
    others = math.exp(math.cos(math.radians(110))), math.exp(math.cos(math.radians(70)))
    own = math.exp(0.5)
    arc = sum(math.log((own + other) / own) for other in others) / 2
    output = run(ArcCSE(temperature=1.0, margin=40.0, triplet_weight=0.3), rows, 3)
    assert output.loss.item() == pytest.approx(arc + 0.3 * 0.25, rel=1e-9)
    assert output.metrics["order"].item() == pytest.approx(0.25, rel=1e-9)


def test_what_counts_is_the_order_of_the_views_and_not_their_role():
    rows = torch.randn(4, 4, 6)
    assert run(ArcCSE(), rows, 3).loss == run(ArcCSE(), rows, 1).loss


def test_texts_and_weights_by_a_slow_loop():
    rows = torch.randn(4, 4, 6, dtype=torch.float64)
    text = torch.tensor([0, 1, 0, 2])[:, None].expand(4, 4)  # rows 0 and 2 have one text
    weight = torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64)
    m, each = math.radians(25), []
    for i in range(4):
        cosine = [cosine_similarity(rows[i, 0], rows[j, 1], dim=0).item() for j in range(4)]
        own = math.exp(math.cos(math.acos(cosine[i]) + m) / 0.5)
        others = sum(math.exp(cosine[j] / 0.5) for j in range(4) if text[j, 0] != text[i, 0])
        near, far = (cosine_similarity(rows[i, 0], rows[i, v], dim=0).item() for v in (2, 3))
        each.append(math.log((own + others) / own) + 0.7 * max(0.0, far - near + 0.3))
    want = sum(w * x for w, x in zip(weight.tolist(), each, strict=True)) / weight.sum().item()
    objective = ArcCSE(temperature=0.5, margin=25.0, triplet_weight=0.7, triplet_margin=0.3)
    assert run(objective, rows, 3, text_id=text, weight=weight).loss.item() == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize(("views", "positives"), [(2, 1), (3, 1), (4, 2)])
def test_without_margin_and_triples_it_is_simcse(views, positives):
    rows = torch.randn(5, views, 8)
    got = run(ArcCSE(margin=0.0, triplet_weight=0.0), rows, positives).loss
    assert got.item() == pytest.approx(run(SimCSE(), rows, positives).loss.item(), rel=1e-6)


def test_the_loss_grows_with_the_margin():
    rows = torch.randn(5, 2, 8)
    rows[:, 1] = rows[:, 0] + 0.5 * rows[:, 1]  # pairs of less than 90 degrees
    losses = [run(ArcCSE(margin=m, triplet_weight=0.0), rows).loss.item() for m in (0.0, 5.0, 10.0, 40.0, 90.0)]
    assert losses == sorted(losses)
    assert losses[0] < losses[-1]


@pytest.mark.parametrize("degrees", [0.0, 0.01, 1.0, 179.99, 180.0])
def test_small_angles_are_exact_in_float32(degrees):
    """A cosine near 1 or -1 has few of the digits of its angle."""
    rows, objective = circle([[0.0, degrees], [90.0, 90.0 + degrees]]), ArcCSE(temperature=1.0, triplet_weight=0.0)
    exact, rounded = (run(objective, x).loss.item() for x in (rows, rows.float()))
    assert rounded == pytest.approx(exact, rel=1e-5, abs=1e-6)


def test_equal_vectors_have_a_finite_gradient():
    rows = torch.randn(4, 1, 6).expand(4, 4, 6).clone().requires_grad_()
    output = run(ArcCSE(), rows, 3)
    output.loss.backward()
    assert torch.isfinite(output.loss)
    assert torch.isfinite(rows.grad).all()


@pytest.mark.parametrize(
    "options", [{"temperature": 0.0}, {"margin": 91.0}, {"triplet_weight": -1.0}, {"triplet_margin": -0.1}]
)
def test_out_of_range(options):
    with pytest.raises(UserError, match=next(iter(options))):
        ArcCSE(**options)


def test_refusals():
    for views in (2, 3, 5):
        with pytest.raises(ValueError, match=rf"four views.*has {views}\. Set collator to cse\.data\.NestedViews"):
            run(ArcCSE(), torch.randn(3, views, 4))
