"""A cls encoder that computes the last layer for one token gives what the whole layer gives."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from cse.encoder import forward
from cse.encoder.dropout import Dropout
from cse.encoder.fast.layers import only_first_token
from cse.encoder.model import Encoder

IDS = torch.tensor([[2, 5, 6, 7, 3], [2, 8, 3, 0, 0], [2, 5, 5, 3, 0]])
MASK = (IDS != 0).long()


def _gradients(folder):
    encoder = Encoder(folder, pooler="cls", dropout=Dropout(hidden=0.0, attention=0.0)).double().train()
    embedding = encoder(IDS, MASK).embedding
    (embedding * torch.linspace(-1, 1, embedding.numel(), dtype=torch.float64).view_as(embedding)).sum().backward()
    return embedding, {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}


def test_vectors_and_gradients_are_the_same(tiny_bert, monkeypatch):
    ours, gradients = _gradients(tiny_bert)
    monkeypatch.setattr(forward, "only_first_token", lambda model: nullcontext())
    monkeypatch.setattr(forward.Forward, "_words", lambda self, ids: (ids, None))
    plain, expected = _gradients(tiny_bert)
    assert torch.allclose(ours, plain, atol=1e-12)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, expected[name], atol=1e-12), name


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
