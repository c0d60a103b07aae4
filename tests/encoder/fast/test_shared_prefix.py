"""Sharing a template's prefix changes nothing, and happens only where that is true."""

from functools import partial

import pytest

from cse.encoder.dropout import Dropout
from cse.encoder.fast import shared_prefix
from cse.encoder.model import Encoder

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
