"""SetCSE: a slow loop's numbers (oracles), pencil, properties."""

import math

import pytest
import torch

from cse.errors import UserError
from cse.objectives.setcse import SetCSE
from cse.objectives.supcon import SupCon
from tests.cases import cases, load
from tests.objectives.helpers import agrees, run


def check(name, form):
    about, data = load("setcse", name)
    x = data["x"].requires_grad_()
    output = run(SetCSE(form=form, temperature=about["temperature"]), x[:, None], 0, label=data["label"])
    agrees(output, about, {"grad_x": data[f"grad_{form}"]}, {"x": x}, loss=form)


@pytest.mark.parametrize("name", cases("setcse", has="supcon"))
def test_every_case_of_supcon(name):
    check(name, "supcon")


@pytest.mark.parametrize("name", cases("setcse", has="inter_set"))
def test_every_case_of_inter_set(name):
    check(name, "inter_set")


def test_by_pencil():
    # Sets {e1, e1} and {e2} at t = 1: all pairs of different sets have the cosine 0, and there are 2 of them, from
    # either side. In supcon both of the first set have one positive at cosine 1 and one negative at 0.
    x = torch.tensor([[[1.0, 0.0]], [[2.0, 0.0]], [[0.0, 1.0]]])
    label = torch.tensor([5, 5, 9])
    apart = run(SetCSE(form="inter_set", temperature=1.0), x, 0, label=label).loss
    assert apart.item() == pytest.approx(2 * math.log(2), rel=1e-6)
    together = run(SetCSE(temperature=1.0), x, 0, label=label)
    assert together.loss.item() == pytest.approx(math.log(1 + math.exp(-1)), rel=1e-6)
    assert together.metrics["skipped"] == 1


@pytest.mark.parametrize("form", ["supcon", "inter_set"])
def test_names_of_sets_and_the_order_of_members_do_not_matter(form):
    x = torch.randn(6, 1, 5, generator=torch.Generator().manual_seed(1))
    label = torch.tensor([0, 0, 1, 1, 2, 2])
    want = run(SetCSE(form=form), x, 0, label=label).loss.item()
    assert run(SetCSE(form=form), x, 0, label=9 - 3 * label).loss.item() == pytest.approx(want, rel=1e-6)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    assert run(SetCSE(form=form), x[order], 0, label=label[order]).loss.item() == pytest.approx(want, rel=1e-6)


def test_supcon_is_supcon_and_views_are_members():
    x = torch.randn(6, 2, 5, generator=torch.Generator().manual_seed(1))
    label = torch.tensor([0, 0, 1, 1, 2, 2])
    want = run(SupCon(temperature=0.05), x, label=label).loss.item()
    assert run(SetCSE(), x, label=label).loss.item() == pytest.approx(want, rel=1e-6)
    flat = x.transpose(0, 1).flatten(0, 1)[:, None]
    for form in ("supcon", "inter_set"):
        want = run(SetCSE(form=form), flat, 0, label=label.repeat(2)).loss.item()
        assert run(SetCSE(form=form), x, label=label).loss.item() == pytest.approx(want, rel=1e-6)


def test_a_step_against_inter_set_moves_sets_apart():
    x = torch.randn(6, 1, 5, generator=torch.Generator().manual_seed(4)).requires_grad_()
    label = torch.tensor([0, 0, 0, 1, 1, 1])
    run(SetCSE(form="inter_set"), x, 0, label=label).loss.backward()
    before, after = x.detach()[:, 0], (x - 0.01 * x.grad).detach()[:, 0]
    across = [torch.cosine_similarity(v[:3, None], v[None, 3:], dim=-1).max() for v in (before, after)]
    assert across[1] < across[0]


def test_refusals():
    with pytest.raises(UserError, match=r"objective.temperature is 0"):
        SetCSE(temperature=0)
    with pytest.raises(ValueError, match=r"SetCSE needs Batch\.label"):
        run(SetCSE(), torch.randn(3, 1, 4), 0)
    with pytest.raises(ValueError, match="inter_set compares sets, and all rows have one label"):
        run(SetCSE(form="inter_set"), torch.randn(3, 1, 4), 0, label=torch.tensor([2, 2, 2]))
    assert not SetCSE(form="inter_set").weighs_rows
    assert SetCSE().weighs_rows
