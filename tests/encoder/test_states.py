"""States and attentions are those that transformers computes; vectors of inner layers are those of a cut encoder."""

from functools import partial

import pytest
import torch
from transformers import AutoModel

from cse import Dropout, Encoder, Lora, SoftPrompts, UserError
from cse.encoder import fast
from cse.encoder.poolers import POOLERS
from tests.encoder.helpers import learn
from tests.models import CAUSAL, ENCODERS

TEXTS = ["the cat sat on a mat", "the cat", "the cat sat on a red house the moon", "the cat ran"]


def tokens(encoder: Encoder):
    return encoder.pad(encoder.tokenize(TEXTS))


def assert_same(got, want, where) -> None:
    """Equal where no padding stands."""
    assert len(got) == len(want)
    for one, other in zip(got, want, strict=True):
        assert one.shape == other.shape
        assert torch.allclose(one[where], other[where], atol=1e-5)


@pytest.mark.parametrize("kind", [*ENCODERS, *CAUSAL, "gpt2"])
@torch.no_grad()
def test_every_kind(tiny, kind):
    encoder = Encoder(tiny(kind), pooler="last" if kind in CAUSAL else "cls").eval()
    ids, mask = tokens(encoder)
    plain = AutoModel.from_pretrained(tiny(kind), attn_implementation="eager").eval()
    want = plain(ids, attention_mask=mask, output_hidden_states=True, output_attentions=True)
    kernel, before = encoder.backbone.config._attn_implementation, encoder(ids, mask).embedding
    alone, both = encoder.states(ids, mask), encoder.states(ids, mask, attentions=True)
    assert alone.attentions == ()
    for states in (alone, both):
        assert_same(states.hidden, want.hidden_states, mask.bool())
        assert torch.allclose(encoder.pooled(states, mask).embedding, before, atol=1e-5)
    queries = mask.bool()[:, None].expand(-1, 2, -1)
    assert_same(both.attentions, want.attentions, queries)
    real = int(mask[1].sum())
    assert all(float(one[1, :, :real, real:].abs().max()) == 0 for one in both.attentions)  # padding keys
    assert encoder.backbone.config._attn_implementation == kernel
    assert torch.equal(encoder(ids, mask).embedding, before)


def test_attentions_are_those_after_dropout(tiny):
    """Before any other dropout, each weight of the first layer is dropped or doubled at a rate of one half."""
    encoder = Encoder(tiny("bert"), dropout=Dropout(attention=0.5, hidden=0.0))
    ids, mask = tokens(encoder)
    kept = encoder.eval().states(ids, mask, attentions=True).attentions[0]
    dropped = encoder.train().states(ids, mask, attentions=True).attentions[0]
    assert torch.equal(dropped, torch.where(dropped > 0, 2 * kept, torch.zeros(())))
    inside = (mask[:, None, :, None] * mask[:, None, None, :]).expand_as(kept).bool()
    assert 0.3 < float((dropped[inside] == 0).float().mean()) < 0.7


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_gradients_are_those_of_the_plain_formula(tiny, kind):
    def gradients(model, hidden, attentions):
        loss = sum((state * real[..., None]).square().sum() for state in hidden)
        (loss + sum((one * real[:, None, :, None]).square().sum() for one in attentions)).backward()
        return {name.removeprefix("backbone."): p.grad for name, p in model.named_parameters() if p.grad is not None}

    encoder = Encoder(tiny(kind), pooler="mean").double().eval()
    ids, mask = tokens(encoder)
    real = mask.double()
    states = encoder.states(ids, mask, attentions=True)
    got = gradients(encoder, states.hidden, states.attentions)
    plain = AutoModel.from_pretrained(tiny(kind), attn_implementation="eager").double().eval()
    output = plain(ids, attention_mask=mask, output_hidden_states=True, output_attentions=True)
    want = gradients(plain, output.hidden_states, output.attentions)
    assert got.keys() == {name for name in want if not name.startswith("pooler.")}
    assert max(float(grad.abs().max()) for grad in want.values()) > 0.1
    for name, grad in got.items():
        assert torch.allclose(grad, want[name], atol=1e-8), name


@pytest.mark.parametrize("attentions", [False, True])
def test_lora_template_and_a_shared_prefix(tiny, attentions):
    encoder = Encoder(tiny("llama"), pooler="last", adapter=Lora(), template='a red house on the moon "{text}"').eval()
    learn(encoder)
    ids, mask = tokens(encoder)
    states = encoder.states(ids, mask, attentions=attentions)
    assert [tuple(state.shape) for state in states.hidden] == [(*ids.shape, 16)] * 3
    for row in range(len(ids)):  # alone, a row has no padding and shares no prefix
        length = int(mask[row].sum())
        alone = encoder.backbone(ids[row : row + 1, :length], output_hidden_states=True).hidden_states
        for state, one in zip(states.hidden, alone, strict=True):
            assert torch.allclose(state[row, :length], one[0], atol=1e-5)
    (gradient,) = torch.autograd.grad(
        states.hidden[1].sum(), [p for n, p in encoder.named_parameters() if "B" in n][:1]
    )
    assert float(gradient.abs().max()) > 0


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_soft_prompts_are_keys_that_are_left_out(tiny, kind):
    encoder = Encoder(tiny(kind), pooler="mean", adapter=SoftPrompts(length=3)).eval()
    encoder.adapter.prompts.weight.data.normal_(std=0.5)
    ids, mask = tokens(encoder)
    both = encoder.states(ids, mask, attentions=True)
    assert_same(both.hidden, encoder.states(ids, mask).hidden, mask.bool())
    for one in both.attentions:
        assert one.shape == (4, 2, ids.shape[1], ids.shape[1])
        assert 0 < float(one.detach()[mask.sum(1).argmax(), :, -1].sum(-1).max()) < 1  # the rest goes to the prompts


def test_bidirectional_attention_stays_so(tiny):
    encoder = Encoder(tiny("qwen2"), pooler="mean", attention="bidirectional").eval()
    ids, mask = tokens(encoder)
    attention = encoder.states(ids, mask, attentions=True).attentions[0]
    assert float(attention.detach()[mask.sum(1).argmax(), :, 0, -1].min()) > 0  # the first token looks at the last one


def test_layers_that_are_recomputed_give_states_and_no_attentions(tiny):
    quiet = Dropout(attention=0.0, hidden=0.0)
    encoder = Encoder(tiny("bert"), dropout=quiet).train()
    ids, mask = tokens(encoder)
    want = encoder.states(ids, mask)
    encoder.recompute()
    assert_same(encoder.states(ids, mask).hidden, want.hidden, mask.bool())
    with pytest.raises(UserError, match=r"trainer.gradient_checkpointing: .*attentions"):
        encoder.states(ids, mask, attentions=True)


def test_a_backbone_without_attentions_is_named(tiny, monkeypatch):
    encoder = Encoder(tiny("bert")).eval()
    kernel, plain = encoder.backbone.config._attn_implementation, encoder.backbone.forward

    def forward(*args, output_attentions=False, **options):
        return plain(*args, **options)

    monkeypatch.setattr(encoder.backbone, "forward", forward)
    with pytest.raises(UserError, match=r"encoder.backbone: .* attentions, which a bert backbone does not give"):
        encoder.states(*tokens(encoder), attentions=True)
    assert encoder.backbone.config._attn_implementation == kernel


# Vectors of inner layers
DEPTH = 3


@pytest.fixture
def deep(tiny):
    return partial(tiny, num_hidden_layers=DEPTH)


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
def test_a_cut_of_every_kind(deep, kind):
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


@pytest.mark.parametrize("layer", [-1, DEPTH + 1])
def test_a_layer_that_does_not_exist(deep, layer):
    encoder = Encoder(deep("bert"))
    with pytest.raises(ValueError, match=f"layers has {layer}, but .* has the layers 0 to 3"):
        encoder.layer_embeddings(*tokens(encoder), [1, layer])
