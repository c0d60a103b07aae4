"""ArcCSE: loops over the paper's equations (oracles), pencil, limits."""

import math

import pytest
import torch
from torch.nn.functional import cosine_similarity

from cse import ArcCSE, Views
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


@pytest.mark.parametrize("degrees", [0.0, 0.01, 1.0, 179.99, 180.0])
def test_small_angles_are_exact_in_float32(degrees):
    """A cosine near 1 or -1 has few of the digits of its angle."""
    rows, objective = circle([[0.0, degrees], [90.0, 90.0 + degrees]]), ArcCSE(temperature=1.0, triplet_weight=0.0)
    exact, rounded = (run(objective, x).loss.item() for x in (rows, rows.float()))
    assert rounded == pytest.approx(exact, rel=1e-5, abs=1e-6)
