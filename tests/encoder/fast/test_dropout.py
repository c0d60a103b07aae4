"""Dropout from 16 bits a decision: its law, its seed, its gradient, and where it is used."""

import math

import pytest
import torch
from torch import nn

from cse.encoder.dropout import Dropout
from cse.encoder.fast.layers import FastDropout, dropout, use_fast_dropout
from cse.encoder.model import Encoder


@pytest.mark.parametrize("probability", [0.1, 0.3, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_share_dropped_and_the_expectation(probability, dtype):
    torch.manual_seed(0)
    count = 1_000_003  # not a multiple of four
    values = dropout(torch.ones(count, dtype=dtype), probability)
    dropped = int((values == 0).sum())
    sigma = math.sqrt(count * probability * (1 - probability))
    assert abs(dropped - count * probability) < 5 * sigma + count / 2**16
    kept = values[values != 0].float()
    assert torch.allclose(kept, torch.tensor(1 / (1 - probability)), rtol=5e-3)


def test_neighbors_are_independent():
    torch.manual_seed(1)
    dropped = (dropout(torch.ones(400_000), 0.25) == 0).float() - 0.25
    for lag in range(1, 9):  # four share a random number
        correlation = float((dropped[lag:] * dropped[:-lag]).mean()) / (0.25 * 0.75)
        assert abs(correlation) < 5 / math.sqrt(400_000)


def test_the_gradient_is_the_mask_with_its_scale():
    torch.manual_seed(2)
    values = torch.randn(7, 5, requires_grad=True)
    out = dropout(values, 0.25)
    out.sum().backward()
    assert torch.equal(values.grad == 0, out == 0)
    assert torch.allclose(values.grad[out != 0], torch.tensor(4 / 3))


def test_nothing_is_dropped_outside_training_or_at_0():
    values = torch.randn(4, 4)
    assert FastDropout(0.5).eval()(values) is values
    assert FastDropout(0.0).train()(values) is values


def test_every_dropout_of_a_backbone_is_replaced_and_keeps_its_probability(tiny_bert):
    encoder = Encoder(tiny_bert, dropout=Dropout(hidden=0.3))
    found = [m for m in encoder.backbone.modules() if isinstance(m, nn.Dropout)]
    assert found
    assert all(type(m) is FastDropout for m in found)
    assert any(m.p == 0.3 for m in found)
    assert encoder.has_dropout


def test_subclasses_are_left_alone():
    class Own(nn.Dropout):
        pass

    model = nn.Sequential(Own(0.1), nn.Dropout(0.2))
    use_fast_dropout(model)
    assert [type(m) for m in model] == [Own, FastDropout]
