"""Keeping converted weights changes no number, and never outlives the weight."""

import copy

import pytest
import torch
from torch import nn

from cse.encoder.fast.layers import Linear, converted_once, use_kept_weights
from cse.encoder.model import Encoder


@pytest.fixture
def layers():
    """The same layer twice: torch's, and ours."""
    torch.manual_seed(0)
    plain = nn.Linear(6, 4)
    kept = nn.Sequential(copy.deepcopy(plain))
    use_kept_weights(kept)
    assert type(kept[0]) is Linear
    return plain, kept[0]


def _bf16():
    return torch.autocast("cpu", torch.bfloat16)


def _change(layer, how):
    if how == "state":
        layer.load_state_dict({k: v + 1 for k, v in layer.state_dict().items()})
    elif how == "in place":
        with torch.no_grad():
            layer.weight.mul_(2)
    else:
        layer.weight = nn.Parameter(torch.full_like(layer.weight, 0.5), requires_grad=False)


def test_frozen_output_and_gradient_are_autocasts_own(layers):
    results = []
    for layer in layers:
        layer.requires_grad_(False)
        rows = torch.linspace(-1, 1, 18).view(3, 6).requires_grad_()
        with _bf16():
            out = layer(rows)
        out.float().pow(2).sum().backward()
        results.append((out, rows.grad))
    (out, grad), (ours, our_grad) = results
    assert ours.dtype == torch.bfloat16
    assert torch.equal(out, ours)
    assert torch.equal(grad, our_grad)


@pytest.mark.parametrize("how", ["state", "in place", "another"])
def test_a_changed_weight_is_converted_again(layers, how):
    plain, kept = (layer.requires_grad_(False) for layer in layers)
    rows = torch.ones(2, 6)
    with _bf16():
        before = kept(rows)
        for layer in (plain, kept):
            _change(layer, how)
        assert torch.equal(kept(rows), plain(rows))
        assert not torch.equal(kept(rows), before)


def test_a_frozen_weight_is_converted_once(layers):
    kept = layers[1].requires_grad_(False)
    rows = torch.ones(2, 6)
    kept(rows)
    assert kept._kept is None  # float32 needs no other
    with _bf16():
        kept(rows)
        first = kept._kept[1]
        kept(rows)
    assert kept._kept[1] is first


def test_a_trained_weight_is_converted_once_a_pass(layers):
    plain, kept = layers
    rows = torch.ones(2, 6)
    with _bf16(), torch.no_grad():
        with converted_once():
            expected = kept(rows)
            kept.weight.data.zero_()
            assert torch.equal(kept(rows), expected)  # of the copy
            assert torch.equal(plain(rows), expected)
        assert torch.equal(kept(rows), kept.bias.bfloat16().expand(2, -1))  # of the weight
        with converted_once():
            assert torch.equal(kept(rows), kept.bias.bfloat16().expand(2, -1))
    assert kept._kept is None


def test_what_scoring_converted_serves_training(layers):
    kept = layers[1].requires_grad_(False)
    with _bf16():
        with torch.inference_mode():
            kept(torch.ones(2, 6))
        rows = torch.ones(2, 6, requires_grad=True)
        kept(rows).float().sum().backward()
    assert rows.grad.abs().sum() > 0


def test_a_backbone_uses_it_and_its_file_does_not_show(tiny_bert):
    encoder = Encoder(tiny_bert).requires_grad_(False)
    assert any(type(m) is Linear for m in encoder.backbone.modules())
    names = set(encoder.state_dict())
    encoder.encode(["red house"], precision="bf16")
    assert any(m._kept for m in encoder.backbone.modules() if isinstance(m, Linear))
    assert set(encoder.state_dict()) == names


def test_scoring_sees_what_an_optimizer_did(tiny_bert):
    encoder = Encoder(tiny_bert)
    before = encoder.encode(["red house"], precision="bf16")
    for parameter in encoder.parameters():
        parameter.grad = torch.ones_like(parameter)
    torch.optim.AdamW(encoder.parameters(), lr=0.1, fused=True).step()
    after = encoder.encode(["red house"], precision="bf16")
    fresh = copy.deepcopy(encoder).encode(["red house"], precision="bf16")
    assert (after == fresh).all()
    assert (after != before).any()
