"""One switch: with it off, vectors and gradients are the same, and nothing is used; a prefix of texts is read once."""

import os
import subprocess
import sys
from contextlib import nullcontext
from functools import partial

import pytest
import torch

from cse import Dropout, Encoder
from cse.encoder import fast
from cse.encoder.fast import off, shared_prefix
from cse.encoder.fast.batching import length_chunks
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


# -- A prefix that is shared -----------------------------------------------------------------------------------------


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
