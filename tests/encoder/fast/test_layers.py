"""Layers of ours: weights that are converted once, dropout of 16 bits a decision, and the last layer of one token."""

import copy
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from cse import Dropout, Encoder
from cse.encoder import forward
from cse.encoder.fast.layers import (
    FastDropout,
    Linear,
    converted_once,
    dropout,
    only_first_token,
    use_fast_dropout,
    use_kept_weights,
)


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


# Dropout
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


# One token of the last layer; `test_switch` compares what comes of it
IDS = torch.tensor([[2, 5, 6, 7, 3], [2, 8, 3, 0, 0], [2, 5, 5, 3, 0]])
MASK = (IDS != 0).long()


def test_the_last_layer_is_that_of_one_token_and_only_within(tiny_bert):
    encoder = Encoder(tiny_bert, pooler="cls").eval()
    with only_first_token(encoder.backbone):
        assert encoder.hidden_states(IDS, MASK)[-1].shape[:2] == (3, 1)
    assert encoder.hidden_states(IDS, MASK)[-1].shape[:2] == (3, 5)


@pytest.mark.parametrize("pooler", ["mean", "last"])
def test_other_poolers_see_every_token(tiny_bert, monkeypatch, pooler):
    def never(model):
        raise AssertionError(model)

    monkeypatch.setattr(forward, "only_first_token", never)
    assert Encoder(tiny_bert, pooler=pooler)(IDS, MASK).embedding.shape[0] == 3


def test_an_architecture_that_is_not_known_is_left_as_it_is(tiny_bert):
    encoder = Encoder(tiny_bert, pooler="cls").eval()
    encoder.backbone.config.model_type = "other"
    with only_first_token(encoder.backbone):
        assert encoder.hidden_states(IDS, MASK)[-1].shape[1] == 5


def test_the_gradient_of_the_embeddings_is_made_once(tiny_bert, monkeypatch):
    encoder = Encoder(tiny_bert, pooler="mean").train()
    calls = []
    encoder.backbone.get_input_embeddings().register_forward_hook(lambda *_: calls.append(1))
    monkeypatch.setattr(forward, "length_chunks", lambda lengths, overhead: [[i] for i in range(len(lengths))])
    encoder(IDS, MASK).embedding.sum().backward()
    assert calls == [1]


def test_threads_that_share_a_model_do_not_disturb_each_other(tiny_bert):
    encoder = Encoder(tiny_bert, pooler="cls").eval()
    texts = [["the cat sat", "moon"], ["red house on a mat"], ["dog ran fast", "sun", "blue tree"]]
    alone = [encoder.encode(part) for part in texts]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda i: encoder.encode(texts[i % 3]), range(120)))
    for i, vectors in enumerate(together):
        np.testing.assert_allclose(vectors, alone[i % 3], atol=1e-6)
    assert not encoder.backbone.encoder.layer[-1].attention.output._forward_pre_hooks
