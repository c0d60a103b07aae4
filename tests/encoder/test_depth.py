"""Vectors of inner layers are those of the encoder that is cut there, for every kind of backbone."""

from contextlib import nullcontext
from functools import partial

import pytest
import torch

from cse.encoder import fast
from cse.encoder.adapters.lora import Lora
from cse.encoder.adapters.soft_prompts import SoftPrompts
from cse.encoder.dropout import Dropout
from cse.encoder.model import Encoder
from cse.encoder.poolers import POOLERS
from tests.encoder.helpers import learn
from tests.models import CAUSAL, ENCODERS

TEXTS = ["the cat sat on a mat", "the cat", "the cat sat on a red house the moon", "the cat ran"]
DEPTH = 3


@pytest.fixture
def deep(tiny):
    return partial(tiny, num_hidden_layers=DEPTH)


def tokens(encoder: Encoder):
    return encoder.pad(encoder.tokenize(TEXTS))


def embeddings(encoder: Encoder, layers) -> list[torch.Tensor]:
    return [output.embedding for output in encoder.layer_embeddings(*tokens(encoder), layers)]


def assert_cuts(encoder: Encoder, cut_after) -> None:
    """Each layer's vectors are those of the encoder that `cut_after` makes; the last layer's are the whole one's."""
    with torch.no_grad():
        *inner, last = embeddings(encoder.eval(), [*range(1, DEPTH), DEPTH])
        assert torch.allclose(last, encoder(*tokens(encoder)).embedding, atol=1e-6)
        for layer, vectors in enumerate(inner, start=1):
            want = cut_after(layer).eval()(*tokens(encoder)).embedding
            assert torch.allclose(vectors, want, atol=1e-5), layer
            assert not torch.allclose(vectors, last, atol=1e-3)


@pytest.mark.parametrize("kind", [*ENCODERS, *CAUSAL, "gpt2"])
def test_every_kind(deep, kind):
    pooler = "last" if kind in CAUSAL else "mean"
    assert_cuts(Encoder(deep(kind), pooler=pooler), lambda n: Encoder(deep(kind), pooler=pooler, layers=n))


@pytest.mark.parametrize("kind", ["bert", "llama"])
@pytest.mark.parametrize("pooler", POOLERS)
def test_every_pooler_with_and_without_accelerations(deep, kind, pooler):
    if (kind, pooler) == ("llama", "mask"):
        pytest.skip("a causal backbone does not fill in a mask token")
    template = 'a "{text}" on {mask}' if pooler == "mask" else None

    def encoder(layers=None):
        return Encoder(deep(kind), pooler=pooler, template=template, layers=layers)

    assert_cuts(encoder(), encoder)
    with fast.off():
        assert_cuts(encoder(), encoder)


def test_lora_template_and_a_shared_prefix(deep):
    """The texts begin alike, so a causal backbone reads their prefix once."""
    options = {"pooler": "last", "template": 'a red house on the moon "{text}"'}
    whole = learn(Encoder(deep("llama"), adapter=Lora(), **options))
    state = whole.state_dict()

    def cut_after(layers):
        encoder = Encoder(deep("llama"), adapter=Lora(), layers=layers, **options)
        encoder.load_state_dict({name: state[name] for name in encoder.state_dict()})
        return encoder

    assert_cuts(whole, cut_after)


@pytest.mark.parametrize("kind", ["bert", "roberta", "llama"])
def test_soft_prompts(deep, kind):
    whole = Encoder(deep(kind), pooler="mean", adapter=SoftPrompts(length=3))
    whole.adapter.prompts.weight.data.normal_(std=0.5)
    table = whole.adapter.table().detach()

    def cut_after(layers):
        encoder = Encoder(deep(kind), pooler="mean", adapter=SoftPrompts(length=3), layers=layers)
        share = table.shape[1] // DEPTH  # the keys and values of a layer lie side by side
        encoder.adapter.prompts.weight.data.copy_(table[:, : share * layers])
        return encoder

    assert_cuts(whole, cut_after)


def test_the_embeddings_are_layer_0(deep):
    encoder = Encoder(deep("bert"), pooler="cls").eval()
    ids, mask = tokens(encoder)
    assert torch.allclose(embeddings(encoder, [0])[0], encoder.backbone.embeddings(ids)[:, 0], atol=1e-6)
    causal = Encoder(deep("llama"), pooler="mean_last_two").eval()
    ids, mask = tokens(causal)
    words = causal.backbone.norm(causal.backbone.get_input_embeddings()(ids))
    want = (words * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    assert torch.allclose(embeddings(causal, [0])[0], want, atol=1e-6)


def test_heads_follow_every_layer(deep):
    encoder = Encoder(deep("bert"), pooler="mean", head="mlp").eval()
    for output in encoder.layer_embeddings(*tokens(encoder), [1, DEPTH]):
        assert torch.equal(output.projected, encoder.head(output.embedding))
    exported = Encoder(deep("bert"), pooler="mean", head="mlp", export_head=True).eval()
    bare = Encoder(deep("bert"), pooler="mean").eval()
    assert torch.allclose(embeddings(exported, [1])[0], exported.post(embeddings(bare, [1])[0]), atol=1e-6)


@pytest.mark.parametrize("kind", ["bert", "llama"])
@pytest.mark.parametrize("how", ["off", "recompute"])
def test_gradients_do_not_depend_on_how_layers_are_computed(deep, kind, how):
    def gradients(recompute=False):
        quiet = Dropout(attention=0.0, hidden=0.0 if kind == "bert" else None)
        encoder = Encoder(deep(kind), pooler="mean", dropout=quiet).double().train()
        if recompute:
            encoder.recompute()
        outputs = torch.stack(embeddings(encoder, [0, 2, DEPTH]))
        (outputs * torch.linspace(-1, 1, outputs.numel(), dtype=torch.float64).view_as(outputs)).sum().backward()
        return {name: weight.grad for name, weight in encoder.named_parameters() if weight.grad is not None}

    want = gradients()
    with fast.off() if how == "off" else nullcontext():
        got = gradients(how == "recompute")
    assert got.keys() == want.keys()
    assert max(float(g.abs().max()) for g in want.values()) > 0.1
    for name, gradient in want.items():
        assert torch.allclose(got[name], gradient, atol=1e-9), name


@pytest.mark.parametrize("layer", [-1, DEPTH + 1])
def test_a_layer_that_does_not_exist(deep, layer):
    encoder = Encoder(deep("bert"))
    with pytest.raises(ValueError, match=f"layers has {layer}, but .* has the layers 0 to 3"):
        encoder.layer_embeddings(*tokens(encoder), [1, layer])
