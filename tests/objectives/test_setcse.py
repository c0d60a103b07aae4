"""SetCSE: a slow loop's numbers (oracles), pencil, properties."""

import pytest
import torch

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


def test_supcon_is_supcon_and_views_are_members():
    x = torch.randn(6, 2, 5, generator=torch.Generator().manual_seed(1))
    label = torch.tensor([0, 0, 1, 1, 2, 2])
    want = run(SupCon(temperature=0.05), x, label=label).loss.item()
    assert run(SetCSE(), x, label=label).loss.item() == pytest.approx(want, rel=1e-6)
    flat = x.transpose(0, 1).flatten(0, 1)[:, None]
    for form in ("supcon", "inter_set"):
        want = run(SetCSE(form=form), flat, 0, label=label.repeat(2)).loss.item()
        assert run(SetCSE(form=form), x, label=label).loss.item() == pytest.approx(want, rel=1e-6)
