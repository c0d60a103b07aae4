"""Fewer layers and fewer dimensions: the sum of the two parts, each tested by itself, in limits of the other.

`test_adaptive_layer.py` runs the cases of sentence-transformers for both.
"""

from __future__ import annotations

import pytest
import torch

from cse.encoder.model import Encoder
from cse.errors import UserError
from cse.objectives.adaptive_layer import AdaptiveLayer
from cse.objectives.matryoshka import Matryoshka
from cse.objectives.matryoshka_2d import Matryoshka2d
from cse.objectives.simcse import SimCSE
from cse.seeding import torch_rng
from tests.objectives.helpers import Case, run
from tests.objectives.test_adaptive_layer import Layered, result


def contract_case(backbone):
    return Case({"term": SimCSE(), "dimensions": [16, 4], "dimensions_per_step": 1})


@pytest.fixture
def states():
    return torch.randn(2, 4, 5, 8, generator=torch_rng("states"), dtype=torch.float64)


def test_the_whole_width_alone_is_the_sum_over_layers(states):
    want = result(AdaptiveLayer(term=SimCSE(), layers_per_step=None), Layered(states)).loss.item()
    both = Matryoshka2d(term=SimCSE(), dimensions=[8], layers_per_step=None)
    assert result(both, Layered(states)).loss.item() == pytest.approx(want, rel=1e-12)


def test_the_last_layer_alone_is_the_sum_over_widths(states):
    rows = states[:, -1].transpose(0, 1)
    want = run(Matryoshka(term=SimCSE(), dimensions=[8, 4, 2]), rows).loss.item()
    both = Matryoshka2d(term=SimCSE(), dimensions=[8, 4, 2], dimensions_per_step=None, layers_per_step=0)
    assert result(both, Layered(states)).loss.item() == pytest.approx(want, rel=1e-12)


def test_widths_are_drawn_anew_for_each_layer(states, monkeypatch):
    seen = []
    real = Matryoshka.forward

    def forward(self, *given):
        output = real(self, *given)
        seen.append(next(name for name in output.metrics if name.startswith("loss_")))
        return output

    monkeypatch.setattr(Matryoshka, "forward", forward)
    both = Matryoshka2d(term=SimCSE(), dimensions=[8, 4, 2], layers_per_step=None)
    result(both, Layered(states), generator=torch_rng("step"))
    assert len(seen) == 4
    assert len(set(seen)) > 1


def test_setup_and_description(tiny_bert):
    both = Matryoshka2d(term=SimCSE())
    both.setup(Encoder(tiny_bert))
    assert both.describe().startswith("AdaptiveLayer(term=Matryoshka(term=SimCSE(temperature=0.05, ")
    assert "dimensions=[16, 8, 4, 2]" in both.describe()
    with pytest.raises(UserError, match=r"encoder.head, which is not exported"):
        Matryoshka2d(term=SimCSE()).setup(Encoder(tiny_bert, head="mlp"))
