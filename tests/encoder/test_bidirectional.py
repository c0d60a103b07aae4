"""Bidirectional attention of causal backbones: against slow loops, in sentence-transformers, and its refusals."""

import json

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel

from cse import Encoder, Lora, SoftPrompts, UserError
from cse.encoder.checkpoint.identity import model_hash
from cse.encoder.checkpoint.layout import Layout
from cse.encoder.kinds import looks_ahead
from cse.publish.card.usage import read_published, transformers_code
from cse.publish.stage import find_adapter
from tests.encoder.helpers import learn, loads_everywhere
from tests.models import save_tiny
from tests.refusals import refuses

WINDOW = 3
LAYERS = ["sliding_attention", "full_attention"]
KINDS = {
    "llama": {},  # SmolLM2 is one
    "mistral": {"sliding_window": WINDOW},
    "qwen2": {"use_sliding_window": True, "sliding_window": WINDOW, "layer_types": LAYERS},
    "qwen3": {"use_sliding_window": True, "sliding_window": WINDOW, "layer_types": LAYERS},
    "gemma": {},
    "gemma2": {"sliding_window": WINDOW, "layer_types": LAYERS},
    "gemma3_text": {"sliding_window": WINDOW, "layer_types": LAYERS},
}
TEXTS = ["the cat sat on a mat dog ran fast", "red house", "the blue tree ran", "moon"]


@pytest.fixture(scope="module")
def causal(tiny_bert, tmp_path_factory):
    """A function that makes a tiny causal backbone, its weights large enough for attention to matter."""
    made: dict[str, str] = {}

    def make(kind: str, **more) -> str:
        if f"{kind}{more}" in made:
            return made[f"{kind}{more}"]
        folder = tmp_path_factory.mktemp(kind)
        save_tiny(kind, tiny_bert, folder, **{"num_key_value_heads": 1, "head_dim": 8, **KINDS.get(kind, {}), **more})
        model = AutoModel.from_pretrained(folder)
        for name, weight in model.named_parameters():
            weight.data *= 1 if "norm" in name else 10
        model.save_pretrained(folder)
        return made.setdefault(f"{kind}{more}", str(folder))

    return make


def rotated(x, cos, sin):
    """(n, heads, L, d) by each position's angle."""
    half = x.shape[-1] // 2
    return x * cos[:, None] + torch.cat([-x[..., half:], x[..., :half]], -1) * sin[:, None]


def by_loops(layer, states, position, mask, window):
    """One attention layer, one weight at a time: softmax over all keys that are no padding and not too far away."""
    n, length, _ = states.shape
    project = {name: getattr(layer, f"{name}_proj")(states).view(n, length, -1, layer.head_dim) for name in "qkv"}
    for name in "qk":
        if hasattr(layer, f"{name}_norm"):
            project[name] = getattr(layer, f"{name}_norm")(project[name])
    q, k, v = (project[name].transpose(1, 2) for name in "qkv")
    q, k = (rotated(x, *position).double() for x in (q, k))
    cap = getattr(layer, "attn_logit_softcapping", None)
    mixed = torch.zeros(n, length, q.shape[1], layer.head_dim, dtype=torch.float64)
    for row in range(n):
        for head in range(q.shape[1]):
            shared = head // layer.num_key_value_groups
            for here in range(length):
                keys = [j for j in range(length) if mask[row, j] and (window is None or abs(here - j) <= window)]
                if not keys:
                    continue  # padding far from every word, whose state nobody reads
                scores = torch.stack([q[row, head, here] @ k[row, shared, j] for j in keys]) * layer.scaling
                scores = scores if cap is None else cap * torch.tanh(scores / cap)
                weights = scores.exp() / scores.exp().sum()
                mixed[row, here, head] = sum(w * v[row, shared, j] for w, j in zip(weights, keys, strict=True))
    return layer.o_proj(mixed.view(n, length, -1).float())


@pytest.mark.parametrize(
    ("kind", "training"),
    [
        pytest.param(kind, training, marks=[pytest.mark.slow] if training == i % 2 else [])
        for i, kind in enumerate(KINDS)
        for training in (False, True)
    ],
)
def test_every_layer_against_slow_loops(causal, kind, training):
    encoder = Encoder(causal(kind), pooler="mean", attention="bidirectional").train(training)
    seen = []

    def keep(layer, args, options, output):
        states = args[0] if args else options["hidden_states"]
        seen.append((layer, states, options["position_embeddings"], output[0]))

    for layer in encoder.backbone.layers:
        layer.self_attn.register_forward_hook(keep, with_kwargs=True)
    ids, mask = encoder.pad([list(range(2, 12)), [2, 5, 3], [2, 9, 8, 7, 3]])
    with torch.no_grad():
        for rows in (slice(None), slice(0, 1)):  # with padding, and without
            encoder.backbone(input_ids=ids[rows], attention_mask=mask[rows])
            for index, (layer, states, position, output) in enumerate(seen):
                types = getattr(encoder.backbone.config, "layer_types", None)
                slides = kind == "mistral" or (types is not None and types[index] == "sliding_attention")
                want = by_loops(layer, states, position, mask[rows], WINDOW if slides else None)
                real = mask[rows].bool()
                assert (output[real] - want[real]).abs().max() <= 1e-5 * max(1.0, float(want.abs().max()))
            assert len(seen) == 2
            seen.clear()


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_token_reaches_the_first_and_padding_nobody(causal, kind):
    backbone = causal(kind)
    for attention, ahead in (("own", False), ("bidirectional", True)):
        encoder = Encoder(backbone, pooler="cls", attention=attention).eval()
        with torch.no_grad():
            first = encoder(*encoder.pad([[2, 5, 6, 7], [2, 5, 6, 8]])).embedding
        assert bool((first[0] - first[1]).abs().max() > 1e-4) == ahead
        alone = np.concatenate([encoder.encode([text]) for text in TEXTS])
        assert np.abs(encoder.encode(TEXTS) - alone).max() < 1e-5
        ids, mask = encoder.pad(encoder.tokenize(TEXTS))
        with torch.no_grad():
            assert np.abs(encoder(ids, mask).embedding.numpy() - alone).max() < 1e-5
        assert ("bidirectional attention" in encoder.describe()) is ahead


SLOW = ("mistral", "qwen2", "gemma", "gemma2")


@pytest.mark.parametrize("kind", [pytest.param(k, marks=[pytest.mark.slow] if k in SLOW else []) for k in KINDS])
def test_a_checkpoint_gives_the_same_vectors_elsewhere(causal, tmp_path, kind):
    encoder = learn(Encoder(causal(kind), pooler="last", attention="bidirectional", adapter=Lora(rank=2)), std=1.0)
    want, folder = loads_everywhere(encoder, tmp_path, TEXTS), tmp_path / "saved"
    layout = Layout.read(folder)
    assert layout.bidirectional
    assert not layout.needs_code
    names = {}
    exec(transformers_code(read_published(folder), str(folder), local=True), names)
    assert np.abs(names["encode"](TEXTS).numpy() - want).max() < 1e-5
    model = SentenceTransformer(str(folder))
    alone = np.concatenate([model.encode([text]) for text in TEXTS])  # without padding, transformers takes another way
    assert np.abs(alone - want).max() < 1e-5
    refuses("bidirectional attention, and a LoRA adapter leaves its backbone causal", find_adapter, folder, None)


def test_versions_that_ignore_the_flag_cannot_load_it(causal, tmp_path):
    """They have no module of that name; `sentence_transformers.models` they have."""
    first = {}
    for attention in ("own", "bidirectional"):
        Encoder(causal("llama"), attention=attention).save(tmp_path / attention)
        first[attention] = json.loads((tmp_path / attention / "modules.json").read_text())[0]["type"]
    assert first["own"] == "sentence_transformers.models.Transformer"
    assert first["bidirectional"].startswith("sentence_transformers.base.")


def test_the_prefix_of_a_template_is_not_shared(causal):
    template, texts = "the cat sat on a {text} mat dog", ["red house", "moon"]
    encoder = Encoder(causal("llama"), pooler="mean", template=template, attention="bidirectional").eval()
    assert not encoder.shares_prefix()
    assert np.abs(encoder.encode(texts) - np.concatenate([encoder.encode([t]) for t in texts])).max() < 1e-5
    assert Encoder(causal("llama"), template=template).eval().shares_prefix()


def test_it_is_part_of_the_identity(causal):
    backbone = causal("llama")
    assert model_hash(Encoder(backbone)) != model_hash(Encoder(backbone, attention="bidirectional"))


def test_a_model_that_looks_both_ways_stays_as_it_is(tiny_bert):
    encoder = Encoder(tiny_bert, attention="bidirectional")
    assert looks_ahead(encoder.backbone)
    assert not hasattr(encoder.backbone.config, "is_causal")
    assert np.array_equal(encoder.eval().encode(TEXTS), Encoder(tiny_bert).eval().encode(TEXTS))


def test_refusals(causal, monkeypatch):
    with pytest.raises(UserError, match=r"stablelm\) stays causal.*\nfix: remove encoder.attention"):
        Encoder(causal("stablelm"), attention="bidirectional")
    with pytest.raises(UserError, match=r"soft prompts leave the backbone frozen.*\nfix: use Lora"):
        Encoder(causal("llama"), attention="bidirectional", adapter=SoftPrompts())
    recurrent = {"layer_types": ["conv", "full_attention"], "num_key_value_heads": 1}
    refuses(r"lfm2\) stays causal", Encoder, causal("lfm2", **recurrent), attention="bidirectional")
