"""The plain formula of attention equals torch's fused kernel, and is used where it is meant to be."""

import json

import pytest
import torch
from torch import nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from cse import Dropout, Encoder
from cse.encoder.fast import attention
from cse.encoder.fast.attention import short_attention


class _Layer(nn.Module):
    def __init__(self, causal, groups):
        super().__init__()
        self.is_causal, self.num_key_value_groups = causal, groups


def _tensors(heads, groups, length, reach, dtype=torch.float64):
    torch.manual_seed(0)
    shapes = [(3, heads * groups, length, 8), (3, heads, reach, 8), (3, heads, reach, 8)]
    return [torch.randn(*shape, dtype=dtype, requires_grad=True) for shape in shapes]


def _mask(kind, length, reach):
    if kind == "none":
        return None
    mask = torch.ones(3, 1, length, reach, dtype=torch.bool)
    mask[1, ..., reach - 1] = reach == 1  # a row attends to something
    if kind == "causal":
        mask &= torch.ones(length, reach, dtype=torch.bool).tril(reach - length)
    if kind == "added":
        return torch.zeros(mask.shape, dtype=torch.float64).masked_fill(~mask, torch.finfo(torch.float64).min)
    return mask


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("kind", ["none", "padded", "causal", "added"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("length", "reach"), [(5, 5), (4, 9), (1, 6), (1, 1), (16, 16), (19, 19), (29, 29)])
def test_it_is_the_fused_kernel(groups, kind, causal, length, reach):
    if kind == "none" and causal and length != reach:
        pytest.skip("transformers always gives a mask behind a cache")
    layer, mask = _Layer(causal, groups).train(), _mask(kind, length, reach)
    results = []
    for function in (short_attention, sdpa_attention_forward):
        tensors = _tensors(2, groups, length, reach)
        out = function(layer, *tensors, mask, scaling=0.3)[0]
        (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
        results.append([out, *(t.grad for t in tensors)])
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-12)


@pytest.mark.parametrize(("reach", "width"), [(1, 16), (15, 16), (16, 16), (17, 17), (23, 23), (24, 32), (33, 33)])
def test_keys_are_padded_where_that_pays(reach, width):
    query, key, value = _tensors(2, 1, reach, reach)
    mask = torch.ones(3, 1, reach, reach, dtype=torch.bool)
    wide_key, wide_value, wide_mask = attention.padded(query, key, value, mask, causal=False)
    assert wide_key.shape == wide_value.shape == (3, 2, width, 8)
    assert wide_mask.shape == (3, 1, reach, width)
    assert not wide_mask[..., reach:].any()


def test_dropped_weights_are_scaled_up(monkeypatch):
    monkeypatch.setattr(attention, "drop", lambda weights, p: weights * 2 * (weights == weights.amax(-1, keepdim=True)))
    query, key, value = _tensors(1, 1, 4, 4)
    out = short_attention(_Layer(False, 1), query, key, value, None, dropout=0.5, scaling=1.0)[0]
    scores = query @ key.transpose(2, 3)
    weights = scores.softmax(-1)
    best = weights.argmax(-1)
    expected = 2 * weights.amax(-1, keepdim=True) * torch.take_along_dim(value, best[..., None], 2)
    assert torch.allclose(out, expected.transpose(1, 2))


def test_a_backbone_uses_it_and_its_config_does_not_say_so(tiny_bert, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(attention, "drop", lambda weights, p: calls.append(p) or weights)
    encoder = Encoder(tiny_bert, dropout=Dropout(attention=0.2)).train()
    encoder(torch.tensor([[2, 5, 6, 3]]), torch.ones(1, 4, dtype=torch.long))
    assert calls == [0.2, 0.2]  # a layer each
    encoder.save(tmp_path / "saved")
    saved = (tmp_path / "saved" / "config.json").read_text()
    assert attention.NAME not in json.dumps(json.loads(saved))


def test_long_texts_and_inference_are_left_to_the_kernel(monkeypatch):
    called = []
    fused = "transformers.integrations.sdpa_attention.sdpa_attention_forward"
    monkeypatch.setattr(fused, lambda *_, **options: called.append(options) or (None, None))
    layer, long = _Layer(False, 1), attention.LONGEST + 1
    short_attention(layer.train(), *_tensors(1, 1, long, long), None, dropout=0.1)
    short_attention(layer.eval(), *_tensors(1, 1, 3, 3), None, dropout=0.1)
    assert [k["dropout"] for k in called] == [0.1, 0.1]
