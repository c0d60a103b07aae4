"""The encoder with deep soft prompts: PromCSE's program, by hand, in sentence-transformers, and its refusals."""

import json

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import DynamicCache

from cse import Batch, Dropout, Encoder, PromCSE, SimCSE, SoftPrompts, StepContext, Trainer
from cse.encoder import prefix
from cse.training.learner import Learner
from tests.cases import below, cases, load, not_offered, state
from tests.encoder.helpers import loads_everywhere
from tests.models import from_weights, save_beside
from tests.objectives.helpers import agrees, close
from tests.refusals import refuses
from tests.runs import make_run

TEXTS = ["the cat sat on a mat", "", "dog", "the red house " * 30, "  a blue tree ran fast"]
SILENT = Dropout(attention=0.0, hidden=0.0)


@pytest.mark.parametrize("name", cases("promcse", has="pkv_shape"))
def test_every_whole_model(tiny_bert, tmp_path, name):
    (about, data), weights = load("promcse", name), state("promcse", name)
    if "prefix_encoder.embedding.weight" not in weights or below(weights, "prefix_encoder.trans."):
        not_offered("prompts projected through layers with another table")
    table = weights["prefix_encoder.embedding.weight"]
    kind = "bert" if below(weights, "bert.") else "roberta"
    supervised = data["input_ids"].shape[1] == 3
    model = from_weights(below(weights, f"{kind}."), kind, num_attention_heads=about["pkv_shape"][2])
    encoder = Encoder(
        save_beside(tiny_bert, model, tmp_path / name),
        adapter=SoftPrompts(length=len(table), dropout=0.0),
        head="mlp",
        export_head=supervised,
        dropout=SILENT,
    )
    encoder.adapter.prompts.load_state_dict({"weight": table})
    head = (encoder.post[0] if supervised else encoder.head).linear
    head.load_state_dict(below(weights, "mlp.dense."))
    ids, mask = data["input_ids"], data["attention_mask"]

    pairs = prefix.key_values(table, ids.shape[0] * ids.shape[1], encoder.backbone.config)
    assert [2, *pairs.shape[1:]] == about["pkv_shape"]
    for slice_, key in ((0, "pkv_layer0_key"), (1, "pkv_layer0_value"), (-1, "pkv_last_value")):
        assert torch.equal(pairs[slice_], data[key])
    inputs = prefix.prompted(encoder.backbone, table, mask[:, 0])
    assert inputs["position_ids"].tolist() == data["position_ids"].tolist() == [about["first_position_ids"]]

    weighed = {"hard_negative_weight": about.get("hnw", 0.0)}
    hinged = {"hinge_weight": about.get("weight", 10.0), "margin": about.get("margin", 0.2)}
    objective = PromCSE(**weighed, **hinged) if "eh" in name.split("_") else SimCSE(**weighed)
    _, output = Learner(encoder, objective).train()(Batch(ids, mask), StepContext(encoder=encoder))
    found = {"prefix_encoder.embedding.weight": encoder.adapter.prompts.weight}
    found |= {"mlp.dense.weight": head.weight, "mlp.dense.bias": head.bias}
    assert sorted(found) == about["trainable"]
    assert sum(p.requires_grad for p in encoder.parameters()) == about["n_grad"]
    agrees(output, about, data, found)
    for key, weight in found.items():
        want = data[f"grad/{key}"]
        assert (weight.grad - want).abs().max() <= 1e-4 * want.abs().max(), key
    with torch.no_grad():
        embedding = encoder.eval()(ids[:, 0], mask[:, 0]).embedding
    close(embedding, data["sentemb"], 1e-5)


@pytest.fixture
def backbone(tiny):
    """A function that gives a tiny backbone; the Llama has two key-value heads for four of queries."""
    grouped = {
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 60,
    }
    return lambda kind: tiny(kind, **(grouped if kind == "llama" else {}))


EVERY = pytest.mark.parametrize("kind", ["bert", "roberta", "llama"])


def test_prompts_are_a_past_of_a_causal_backbone(backbone):
    """Keys and values that the backbone itself made of P words, given as prompts, continue those P words."""
    encoder = Encoder(backbone("llama"), adapter=SoftPrompts(length=4), pooler="last").eval()
    words = torch.tensor([[5, 6, 7, 8, 9, 10, 11]])
    cache = DynamicCache()
    name = prefix.cache_argument(encoder.backbone)
    with torch.no_grad():
        whole = encoder.backbone(input_ids=words).last_hidden_state[:, 4:]
        encoder.backbone(input_ids=words[:, :4], use_cache=True, **{name: cache})
        pairs = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]  # each (1, heads, 4, size)
        encoder.adapter.prompts.weight.copy_(torch.stack(pairs)[:, 0].permute(2, 0, 1, 3).reshape(4, -1))
        got = encoder.hidden_states(words[:, 4:], torch.ones(1, 3, dtype=torch.long))[-1]
    assert torch.allclose(got, whole, atol=1e-5)


@EVERY
@pytest.mark.parametrize(
    "options", [{"pooler": "mean"}, {"pooler": "last", "template": "a cat sat on a mat {text} ran"}]
)
def test_prompts_are_seen_and_neighbors_change_nothing(backbone, kind, options):
    """Rows that begin alike may share their beginning's states elsewhere; here each begins with the prompts."""
    encoder = Encoder(backbone(kind), adapter=SoftPrompts(length=3), **options).eval()
    with torch.no_grad():
        encoder.adapter.prompts.weight.normal_()
    together = encoder.encode(TEXTS)
    assert np.abs(np.concatenate([encoder.encode([text]) for text in TEXTS]) - together).max() < 1e-5
    assert np.abs(Encoder(backbone(kind), **options).eval().encode(TEXTS) - together).max() > 1e-3


def test_roberta_positions_follow_the_prompts(backbone):
    encoder = Encoder(backbone("roberta"), adapter=SoftPrompts(length=5))
    inputs = encoder.model_inputs(torch.ones(2, 4, dtype=torch.long), torch.ones(2, 4, dtype=torch.long))
    assert inputs["position_ids"].tolist() == [[6, 7, 8, 9]]  # pad id 0, so the first word of a plain RoBERTa has 1
    assert inputs["attention_mask"].shape == (2, 9)


@EVERY
def test_only_prompts_and_head_are_trained(backbone, kind, tmp_path):
    encoder = Encoder(backbone(kind), adapter=SoftPrompts(length=3), pooler="last", head="mlp", max_length=20)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    Trainer(make_run(tmp_path, "", encoder=encoder)).fit()
    changed = {k for k, v in encoder.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"adapter.prompts.weight", "head.linear.weight", "head.linear.bias"}
    size = sum(p.stat().st_size for p in (tmp_path / "run" / "best").rglob("*") if p.is_file())
    assert size < 300_000
    assert not (tmp_path / "run" / "best" / "model.safetensors").exists()


def test_views_differ_by_dropout_of_prompts_alone(tiny_bert):
    encoder = Encoder(tiny_bert, adapter=SoftPrompts(), dropout=SILENT).train()
    ids, mask = torch.tensor([[2, 5, 6, 3]] * 2), torch.ones(2, 4, dtype=torch.long)
    assert encoder.has_dropout
    a, b = encoder(ids, mask).embedding
    assert (a - b).abs().max() > 0
    still = Encoder(tiny_bert, adapter=SoftPrompts(dropout=0.0), dropout=SILENT).train()
    assert not still.has_dropout
    a, b = still(ids, mask).embedding
    assert torch.equal(a, b)


def test_bf16_is_finite_and_near(tiny_bert):
    encoder = Encoder(tiny_bert, adapter=SoftPrompts(dropout=0.0), dropout=SILENT)
    ids, mask = torch.tensor([[2, 5, 6, 3]]), torch.ones(1, 4, dtype=torch.long)
    exact = encoder(ids, mask).embedding
    with torch.autocast("cpu", torch.bfloat16):
        rough = encoder(ids, mask).embedding
    rough.float().sum().backward()
    assert encoder.adapter.prompts.weight.grad.isfinite().all()
    assert torch.allclose(exact, rough.float(), atol=0.1)


@pytest.mark.parametrize("options", [{"whole": False}, {"whole": True, "with_code": True}], ids=["prompts", "whole"])
@pytest.mark.parametrize(
    ("kind", "projection", "arguments"),
    [
        ("bert", 0, {"head": "mlp"}),
        ("bert", 8, {"head": "mlp", "export_head": True, "max_length": 12, "layers": 1}),
        ("roberta", 0, {"pooler": "mean"}),
        ("llama", 0, {"pooler": "last", "template": "the {text} sat on", "max_length": 20, "layers": 2}),
    ],
)
def test_a_checkpoint_gives_the_same_vectors_everywhere(backbone, kind, projection, arguments, options, tmp_path):
    encoder = Encoder(backbone(kind), adapter=SoftPrompts(length=3, projection=projection), **arguments)
    torch.nn.init.normal_(encoder.adapter.prompts.weight)
    want = loads_everywhere(encoder, tmp_path, TEXTS, **options)
    assert isinstance(Encoder.load(str(tmp_path / "again")).adapter, SoftPrompts)
    assert (tmp_path / "saved" / "model.safetensors").exists() is options["whole"]
    kind = json.loads((tmp_path / "saved" / "modules.json").read_text())[0]["type"]
    assert kind == ("" if options["whole"] else "cse.encoder.") + "prefix_module.PrefixTransformer"
    theirs = SentenceTransformer(str(tmp_path / "saved"), trust_remote_code=True)
    assert theirs.max_seq_length == encoder.max_length
    theirs.save(str(tmp_path / "theirs"))
    assert np.abs(Encoder.load(str(tmp_path / "theirs")).encode(TEXTS) - want).max() < 1e-5


def test_a_damaged_checkpoint_is_an_error(tiny_bert, tmp_path):
    Encoder(tiny_bert, adapter=SoftPrompts()).save(tmp_path / "model")
    (tmp_path / "model" / "prompts.safetensors").unlink()
    refuses(r"lacks prompts\.safetensors", Encoder.load, str(tmp_path / "model"))
