"""What is fast: with the switch off nothing changes; attention as torch has it, sub-batches against brute force."""

import json
import os
import random
import subprocess
import sys
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from cse import Dropout, Encoder
from cse.encoder import fast
from cse.encoder.fast import attention, batching, off, shared_prefix
from cse.encoder.fast.attention import short_attention
from cse.encoder.fast.batching import chunk_overhead, length_chunks, token_budget_batches
from cse.encoder.fast.layers import KEPT

TEXTS = ["a cat sat on a mat" + end for end in (" the cat", "", " the red house ran fast")] + ["a cat sat on it"]


@pytest.fixture(params=["bert", "llama"])
def backbone(request, tiny):
    sizes = {"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
    return tiny(request.param, **sizes if request.param == "llama" else {})


def silent(backbone, pooler):
    """An encoder without dropout; a Llama has none on hidden states."""
    hidden = None if "llama" in backbone else 0.0
    return Encoder(backbone, pooler=pooler, dropout=Dropout(attention=0.0, hidden=hidden))


def result(backbone, pooler, training):
    """Vectors, and the gradient of every weight, of a sum that weighs each coordinate otherwise."""
    encoder = silent(backbone, pooler).train(training)
    ids, mask = encoder.pad(encoder.tokenize(TEXTS))
    vectors = encoder(ids, mask).embedding
    (vectors * torch.linspace(-1, 1, vectors.numel()).view_as(vectors)).sum().backward()
    gradients = {name: weight.grad for name, weight in encoder.named_parameters() if weight.grad is not None}
    return vectors.detach(), gradients, torch.from_numpy(encoder.encode(TEXTS)), encoder


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("pooler", ["cls", "mean", "last"])
def test_on_and_off_agree(backbone, pooler, training):
    vectors, gradients, encoded, encoder = result(backbone, pooler, training)
    with fast.off():
        plain_vectors, plain_gradients, plain_encoded, plain = result(backbone, pooler, training)
    assert torch.allclose(vectors, plain_vectors, rtol=0, atol=1e-6)
    assert torch.allclose(encoded, plain_encoded, rtol=0, atol=1e-6)
    assert gradients.keys() == plain_gradients.keys()
    largest = max(gradient.abs().max() for gradient in plain_gradients.values())
    for name, want in plain_gradients.items():
        assert (gradients[name] - want).abs().max() <= 1e-6 * max(1, largest), name
    assert any("cse" in type(m).__module__ for m in encoder.backbone.modules())
    assert not any("cse" in type(m).__module__ for m in plain.backbone.modules())
    assert plain.backbone.config._attn_implementation == "sdpa"


def test_a_model_built_with_it_runs_plainly_when_it_is_off(backbone):
    encoder = silent(backbone, "mean").train()
    ids, mask = encoder.pad(encoder.tokenize(TEXTS))
    want = encoder(ids, mask).embedding
    with fast.off():
        assert not fast.enabled()
        assert length_chunks([3, 9, 1], 0) == [[0, 1, 2]]
        assert torch.allclose(encoder(ids, mask).embedding, want, rtol=0, atol=1e-6)
    assert fast.enabled()


@pytest.mark.parametrize(("value", "enabled"), [("0", "False"), ("1", "True"), (None, "True")])
def test_the_environment_switches(value, enabled):
    environment = {name: old for name, old in os.environ.items() if name != "CSE_FAST"}
    environment |= {} if value is None else {"CSE_FAST": value}
    script = "from cse.encoder.fast.switch import enabled; print(enabled())"
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == enabled


NAME = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"


@pytest.mark.parametrize(
    ("given", "block", "want"), [(None, nullcontext, str(KEPT)), ("7", nullcontext, "7"), (None, off, None)]
)
def test_loading_an_encoder_sets_it_unless_it_is_given_or_the_switch_is_off(monkeypatch, given, block, want):
    monkeypatch.setenv(NAME, given or "")  # so that it is restored afterwards
    if given is None:
        monkeypatch.delenv(NAME)
    with block():
        Encoder("asset:mini")
    assert os.environ.get(NAME) == want


# A prefix that is shared
TEMPLATE = "the cat sat on a {text} mat dog"


@pytest.fixture
def causal(tiny):
    return partial(tiny, num_key_value_heads=1, head_dim=8, max_position_embeddings=64)


@pytest.mark.parametrize("kind", sorted(shared_prefix.CAUSAL))
@pytest.mark.parametrize("pooler", ["last", "mean", "first_last_layer1"])
def test_vectors_and_gradients_are_the_same(causal, monkeypatch, kind, pooler):
    encoder = Encoder(causal(kind), pooler=pooler, template=TEMPLATE, dropout=Dropout(attention=0.0)).train()
    ids, mask = encoder.pad(encoder.tokenize(["red house", "moon", "blue tree ran fast slow"]))
    results = []
    for worth in (shared_prefix.WORTH, 10**6):
        monkeypatch.setattr("cse.encoder.forward.WORTH", worth)
        encoder.zero_grad()
        vectors = encoder(ids, mask).embedding
        vectors.pow(3).sum().backward()
        results.append([vectors.detach(), *(p.grad for p in encoder.parameters() if p.grad is not None)])
    for shared, alone in zip(*results, strict=True):  # norms are in float32, whatever the weights are
        assert float((shared - alone).abs().max()) <= 1e-5 * max(1.0, float(alone.abs().max()))


def test_it_is_used(causal, monkeypatch):
    encoder = Encoder(causal("llama"), pooler="last", template=TEMPLATE).eval()
    seen = []
    real = shared_prefix.read
    monkeypatch.setattr("cse.encoder.forward.read_prefix", lambda *a, **k: seen.append(a[1]) or real(*a, **k))
    encoder.encode(["red", "blue tree"], batch_size=1)
    assert seen == [6]  # [CLS] and five words, read once for both batches


def test_not_under_dropout_nor_in_a_model_that_looks_both_ways(causal, tiny_bert):
    dropping = Encoder(causal("llama"), pooler="last", dropout=Dropout(attention=0.1))
    assert dropping.eval().shares_prefix()
    assert not dropping.train().shares_prefix()
    assert not Encoder(tiny_bert).eval().shares_prefix()


def test_every_row_keeps_a_token_of_its_own():
    assert shared_prefix.shared_length([[5, 6, 7], [5, 6, 7]]) == 2
    assert shared_prefix.shared_length([[5, 6, 7], [5, 8, 7]]) == 1
    assert shared_prefix.shared_length([[5, 6, 7], [5, 6]]) == 1
    assert shared_prefix.shared_length([[5, 6, 7]]) == 0


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


def partitions(items):
    """Every way to cut a set into non-empty parts."""
    if not items:
        yield []
        return
    first, rest = items[0], items[1:]
    for parts in partitions(rest):
        yield [[first], *parts]
        for i in range(len(parts)):
            yield [*parts[:i], [first, *parts[i]], *parts[i + 1 :]]


def cost(chunks, lengths, overhead):
    return sum(len(rows) * max(lengths[i] for i in rows) + overhead for rows in chunks)


@pytest.mark.parametrize("overhead", [0, 1, 3, 10, 1000])
def test_length_chunks_cost_the_least_of_all_partitions(overhead):
    rng = random.Random(overhead)
    for size in range(8):
        lengths = [rng.randint(1, 9) for _ in range(size)]
        best = min(cost(chunks, lengths, overhead) for chunks in partitions(list(range(size))))
        assert cost(length_chunks(lengths, overhead), lengths, overhead) == best


def test_length_chunks_hold_every_row_once_and_start_with_the_longest():
    rng = random.Random(0)
    lengths = [rng.randint(1, 60) for _ in range(200)]
    chunks = length_chunks(lengths, 48)
    assert sorted(i for rows in chunks for i in rows) == list(range(200))
    longest = [max(lengths[i] for i in rows) for rows in chunks]
    assert longest == sorted(longest, reverse=True)
    assert 1 < len(chunks) < 30


@pytest.mark.parametrize(("tiles", "bf16", "more"), [(False, False, False), (False, True, False), (True, True, True)])
def test_a_sub_batch_costs_more_tokens_where_the_cpu_multiplies_matrices(monkeypatch, tiles, bf16, more):
    monkeypatch.setattr(batching, "_has_tiles", lambda: tiles)
    plain = chunk_overhead(torch.device("cpu"))
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        assert (chunk_overhead(torch.device("cpu")) > plain) == more
    assert chunk_overhead(torch.device("cuda")) > plain


@pytest.mark.parametrize("budget", [1, 16, 64, 10_000])
def test_token_budgets_are_respected_and_used(budget):
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 40, size=150)
    batches = list(token_budget_batches(lengths, budget))
    assert sorted(np.concatenate(batches).tolist()) == list(range(150))
    ends = []
    for rows in batches:
        longest = int(lengths[rows].max())
        ends.append(longest)
        assert len(rows) * longest <= budget or len(rows) == 1
        if rows is not batches[-1]:
            assert (len(rows) + 1) * max(1, longest) > budget  # one more would not have fitted
    assert ends == sorted(ends, reverse=True)


def test_no_rows_make_no_batches():
    assert list(token_budget_batches(np.zeros(0, dtype=np.int64), 10)) == []
