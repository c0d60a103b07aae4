"""Checkpoints of a LoRA adapter alone: they load as the whole model does, and refuse another backbone."""

import shutil

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel

from cse import Encoder, Experts, Lora, SoftPrompts, Trainer, UserError
from cse.encoder.checkpoint.identity import model_hash
from cse.encoder.checkpoint.layout import Layout
from cse.encoder.heads import Dense
from cse.publish.stage import find_adapter, stage
from tests.encoder.helpers import learn
from tests.models import save_tiny
from tests.refusals import refuses
from tests.runs import make_run

TEXTS = ["the cat sat on a mat", "dog", "", "a blue tree ran fast"]


def saved(backbone, folder, seed=3, **options):
    """An encoder whose LoRA differs from 0, and its checkpoints best/ (whole) and last/ (the adapter)."""
    torch.manual_seed(seed)
    encoder = learn(Encoder(backbone, adapter=Lora(rank=2, alpha=6), **options)).eval()
    encoder.save(folder / "best")
    encoder.save(folder / "last", whole=False)
    return encoder


@pytest.fixture
def backbone(tiny_bert, tmp_path):
    """A backbone that a test may change."""
    shutil.copytree(tiny_bert, tmp_path / "backbone")
    return str(tmp_path / "backbone")


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("bert", {"pooler": "mean", "head": "mlp", "export_head": True, "layers": 1}),
        ("bert", {"pooler": "first_last_layer1", "prompts": {"query": "the red"}, "max_length": 9}),
        ("llama", {"pooler": "last", "template": 'the house "{text}" moon', "weights": "bf16"}),
        ("llama", {"pooler": "mean", "attention": "bidirectional"}),
    ],
)
def test_it_loads_as_the_whole_model_does(tiny_bert, tmp_path, kind, options):
    backbone = save_tiny(kind, tiny_bert, tmp_path / "backbone")
    saved(backbone, tmp_path, **options)
    whole, alone = (Encoder.load(str(tmp_path / name)) for name in ("best", "last"))
    assert [path.name for path in (tmp_path / "last").glob("*.safetensors")] == []
    assert np.array_equal(whole.encode(TEXTS), alone.encode(TEXTS))
    assert whole.encode(TEXTS).std() > 0
    want = whole.state_dict()
    assert list(want) == list(alone.state_dict())
    assert all(torch.equal(want[name], weight) for name, weight in alone.state_dict().items())
    assert (alone.prompts, alone.max_length, alone.depth) == (whole.prompts, whole.max_length, whole.depth)
    assert all(weight.requires_grad for weight in alone.backbone.parameters())
    alone.save(tmp_path / "again")
    again, best = (tmp_path / name / "model.safetensors" for name in ("again", "best"))
    assert again.read_bytes() == best.read_bytes()


def expected(kind, weight, low, high, first, magnitude):
    """The merged weight of a layer by the equations of the papers, alpha 6 and rank 2, in float64."""
    difference = high @ low * (6 / np.sqrt(2) if kind == "rslora" else 6 / 2)
    if kind == "pissa":
        u, s, v = np.linalg.svd(weight)
        np.testing.assert_allclose(first, (u[:, :2] * s[:2]) @ v[:2], atol=1e-5)
        return weight - (u[:, :2] * s[:2]) @ v[:2] + difference
    total = weight + difference
    return total if kind != "dora" else magnitude[:, None] * total / np.sqrt((total**2).sum(1, keepdims=True))


@pytest.mark.parametrize("family", ["bert", "gpt2"])  # GPT-2 stores its weights the other way round
@pytest.mark.parametrize("kind", ["lora", "rslora", "dora", "pissa"])
def test_the_kinds_of_lora_are_those_of_their_papers(tiny_bert, tmp_path, kind, family):
    backbone = save_tiny(family, tiny_bert, tmp_path / "backbone", n_inner=32)
    name = {"bert": "encoder.layer.1.attention.self.query", "gpt2": "h.1.attn.c_attn"}[family]
    encoder = Encoder(backbone, pooler="mean", adapter=Lora(kind=kind, rank=2, alpha=6)).eval()
    before = Encoder(backbone, pooler="mean").encode(TEXTS)
    np.testing.assert_allclose(encoder.encode(TEXTS), before, atol=1e-6)  # each begins as the model was
    layer = encoder.backbone.get_submodule(name)
    first = 3 * (layer.lora_B["default"].weight @ layer.lora_A["default"].weight).detach().numpy()
    generator = torch.Generator().manual_seed(3)
    trained = [weight for weight in encoder.parameters() if weight.requires_grad]
    for weight in trained:
        weight.data += 0.2 * torch.randn(weight.shape, generator=generator)
    assert len(trained) % (3 if kind == "dora" else 2) == 0
    want = encoder.encode(TEXTS)
    assert np.abs(want - before).max() > 1e-2
    encoder.save(tmp_path / "best")
    encoder.save(tmp_path / "last", whole=False)
    assert list((tmp_path / "last").glob("*.safetensors")) == []
    for place in ("best", "last"):
        np.testing.assert_allclose(Encoder.load(str(tmp_path / place)).encode(TEXTS), want, atol=1e-5)
    low, high = (getattr(layer, f"lora_{part}")["default"].weight.detach().double().numpy() for part in "AB")
    magnitude = layer.lora_magnitude_vector["default"].weight.detach().double().numpy() if kind == "dora" else None
    places = (tmp_path / at / "model.safetensors" for at in ("backbone", "best"))
    states = ({k.removeprefix("transformer."): v.double().numpy() for k, v in load_file(at).items()} for at in places)
    start, found = (at[f"{name}.weight"].T if family == "gpt2" else at[f"{name}.weight"] for at in states)
    np.testing.assert_allclose(found, expected(kind, start, low, high, first, magnitude), atol=1e-5)
    theirs = PeftModel.from_pretrained(AutoModel.from_pretrained(backbone), tmp_path / "last" / "adapter").eval()
    tokens = torch.tensor([[2, 7, 9, 8, 3]])
    ours = AutoModel.from_pretrained(tmp_path / "best").eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens)[0], ours(tokens)[0], atol=1e-5, rtol=0)


def test_pissa_needs_exact_weights(tiny_bert):
    with pytest.raises(UserError, match=r"encoder.weights is bf16, and PiSSA needs fp32\nfix: "):
        Encoder(tiny_bert, weights="bf16", adapter=Lora(kind="pissa"))


def test_it_is_a_backbone_a_publication_and_an_expert(backbone, tmp_path):
    want = saved(backbone, tmp_path, pooler="mean").encode(TEXTS)
    best, last = str(tmp_path / "best"), str(tmp_path / "last")
    upper = saved(last, tmp_path / "upper", seed=4)  # an adapter on an adapter
    assert upper.layout(whole=False).reference.backbone == last
    found = Encoder.load(str(tmp_path / "upper" / "last")).encode(TEXTS)
    assert np.abs(found - upper.encode(TEXTS)).max() < 1e-5
    assert np.abs(found - want).max() > 1e-2
    assert Encoder(last, layers=1, pooler="mean").depth == 1
    stage(tmp_path / "last", tmp_path / "staged")
    assert Layout.read(tmp_path / "staged").reference is None
    assert np.abs(Encoder.load(str(tmp_path / "staged")).encode(TEXTS) - want).max() < 1e-5
    with pytest.raises(UserError, match="other people do not have"):  # all else is right
        find_adapter(tmp_path / "last", None)
    experts = Experts({"a": best, "b": last}, device="cpu")
    assert np.abs(experts.encode(TEXTS, ["a", "b"] * 2) - want).max() < 1e-5


def test_another_adapter_is_another_model(backbone, tmp_path):
    saved(backbone, tmp_path / "one", pooler="mean")
    saved(backbone, tmp_path / "two", seed=4, pooler="mean")
    assert len({model_hash(tmp_path / run / "last") for run in ("one", "two")}) == 2
    shutil.copytree(tmp_path / "one" / "last", tmp_path / "copy")
    assert model_hash(tmp_path / "copy") == model_hash(tmp_path / "one" / "last")


def test_another_backbone_is_refused(backbone, tmp_path):
    saved(backbone, tmp_path, pooler="mean")
    last = tmp_path / "last"
    (last / "adapter" / "adapter_model.safetensors").rename(tmp_path / "kept")
    refuses(r"lacks adapter/adapter_model.safetensors\nfix: ", Encoder.load, str(last))
    (tmp_path / "kept").rename(last / "adapter" / "adapter_model.safetensors")
    save_tiny("bert", backbone, tmp_path / "backbone", seed=5)
    refuses(r"last holds an adapter, and the weights of its backbone .* changed.*\nfix: ", Encoder.load, str(last))
    (tmp_path / "backbone").rename(tmp_path / "moved")
    refuses(r"last holds an adapter, and its backbone cannot be loaded: .*\nfix: ", Encoder.load, str(last))
    Encoder.load(str(tmp_path / "best"))


def test_what_an_adapter_does_not_hold_is_saved_whole(tiny_bert, tmp_path):
    encoder = Encoder(tiny_bert, adapter=Lora(rank=2))
    next(encoder.backbone.parameters()).requires_grad_(True)
    for each, name in ((encoder, "thawed"), (Encoder(tiny_bert), "plain")):
        each.save(tmp_path / name, whole=False)
        assert (tmp_path / name / "model.safetensors").is_file()


def test_bf16_halves_a_checkpoint_and_rounds_its_weights(tiny_bert, tmp_path):
    encoder = saved(tiny_bert, tmp_path, pooler="mean")
    encoder.append(Dense(16, 8))
    encoder.save(tmp_path / "full")
    encoder.save(tmp_path / "half", precision="bf16")
    full, half = (load_file(tmp_path / name / "model.safetensors") for name in ("full", "half"))
    assert full.keys() == half.keys()
    assert all(torch.equal(half[name], weight.bfloat16()) for name, weight in full.items())
    again = Encoder.load(str(tmp_path / "half"))
    assert again.weights == "bf16"
    want = encoder.encode(TEXTS)
    assert 0 < np.abs(again.encode(TEXTS) - want).max() < 2**-5 * np.abs(want).max()


def test_soft_prompts_have_no_precision(tiny_bert, tmp_path):
    run = make_run(tmp_path, tiny_bert, encoder=Encoder(tiny_bert, adapter=SoftPrompts()), save_precision="bf16")
    refuses(r"trainer.save_precision is bf16.*\nfix: ", Trainer, run)
