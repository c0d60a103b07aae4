"""SupCon against its authors' program, by pencil, and in the limit in which it is NT-Xent."""

import math

import pytest
import torch

from cse import SupCon
from tests.cases import cases, load
from tests.objectives.helpers import agrees, close, run


@pytest.mark.parametrize("case", cases("supcon"))
def test_against_the_authors_program(case):
    about, data = load("supcon", case)
    x = data["x"].requires_grad_()
    label = data.get("label", torch.arange(about["B"]))
    objective = SupCon(
        temperature=about["temperature"], base_temperature=about["base_temperature"], anchors=about["contrast_mode"]
    )
    output = run(objective, x, about["V"] - 1, label=label)
    # Views without a positive count as 0 in the authors' mean over all anchors, and are left out here.
    anchors = about["B"] * (about["V"] if about["contrast_mode"] == "all" else 1)
    loss = output.loss * (anchors - output.metrics["skipped"]) / anchors
    if "loss_pytorch_metric_learning" in about:  # this program leaves them out, and has no base temperature
        plain = output.loss * about["base_temperature"] / about["temperature"]
        assert plain.item() == pytest.approx(about["loss_pytorch_metric_learning"], rel=1e-5)
    agrees(loss, about, data, {"x": x})


@pytest.mark.parametrize("name", cases("stored_views"))
def test_stored_rewrites_against_the_program_of_lm_cppf(name):
    about, data = load("stored_views", name)
    x = data["x"].requires_grad_()
    objective = SupCon(temperature=about["temperature"], base_temperature=about["base_temperature"])
    output = run(objective, x, x.shape[1] - 1, label=data["labels"])
    output.loss.backward()
    assert output.loss.item() == pytest.approx(about["loss"], rel=1e-5)
    given, unit = data["grad_x"], x.detach()  # the program takes them to be unit vectors; ours are scaled to that first
    close(x.grad, given - (given * unit).sum(-1, keepdim=True) * unit)


def test_a_hard_negative_is_a_candidate_without_a_label():
    """The first two rows have one positive and one candidate at cosine 1, and three at 0; t is 1."""
    x = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]])
    output = run(SupCon(temperature=1.0), x, 0, label=torch.tensor([4, 4, 7]))
    assert output.loss.item() == pytest.approx(math.log(2 + 3 * math.exp(-1)), rel=1e-6)
    assert output.metrics["skipped"] == 1


@pytest.mark.parametrize("reduce", ["out", "in"])
def test_by_a_loop_over_views_with_weights(reduce):
    x = torch.randn(5, 2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    label, weight = [0, 1, 0, 2, 1], [1.0, 2.0, 0.5, 0.0, 1.0]
    u = torch.nn.functional.normalize(x, dim=-1)
    views = [(i, v) for i in range(5) for v in range(2)]
    total = mass = 0.0
    for a in views:
        others = [k for k in views if k != a]
        below = sum(math.exp(float(u[a] @ u[k]) / 0.1) for k in others)
        ratios = [math.exp(float(u[a] @ u[k]) / 0.1) / below for k in others if label[k[0]] == label[a[0]]]
        mean = sum(ratios) / len(ratios) if reduce == "in" else None
        loss = -math.log(mean) if mean is not None else -sum(map(math.log, ratios)) / len(ratios)
        total, mass = total + weight[a[0]] * loss, mass + weight[a[0]]
    got = run(SupCon(reduce=reduce), x, 1, label=torch.tensor(label), weight=torch.tensor(weight))
    assert got.loss.item() == pytest.approx(total / mass, rel=1e-9)
