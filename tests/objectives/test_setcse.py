"""SetCSE: a slow loop's numbers (oracles), pencil, properties."""

import pytest
import torch

from cse import SetCSE
from tests.cases import cases, load
from tests.objectives.helpers import agrees, run


@pytest.mark.parametrize(
    ("form", "name"), [(form, name) for form in ("supcon", "inter_set") for name in cases("setcse", has=form)]
)
def test_every_case(form, name):
    about, data = load("setcse", name)
    x = data["x"].requires_grad_()
    output = run(SetCSE(form=form, temperature=about["temperature"]), x[:, None], 0, label=data["label"])
    agrees(output, about, {"grad_x": data[f"grad_{form}"]}, {"x": x}, loss=form)


@pytest.mark.parametrize("form", ["supcon", "inter_set"])
def test_views_are_members(form):
    x, label = torch.randn(6, 2, 5), torch.tensor([0, 0, 1, 1, 2, 2])
    flat = x.transpose(0, 1).flatten(0, 1)[:, None]
    want = run(SetCSE(form=form), flat, 0, label=label.repeat(2)).loss.item()
    assert run(SetCSE(form=form), x, label=label).loss.item() == pytest.approx(want, rel=1e-6)
