"""How weights are kept, in bfloat16, 8 and 4 bits, and by which kernel attention is computed; what is refused."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

import cse
from cse import Dropout, Encoder, Lora, Masked, SoftPrompts, TextViews, Trainer, UserError
from cse.encoder import kinds as formats
from cse.encoder.checkpoint.layout import Layout
from cse.encoder.kinds import PACKAGES, kernel_of_precision
from cse.seeding import seed_dropout
from tests.encoder.helpers import loads_everywhere
from tests.models import save_tiny
from tests.refusals import refuses
from tests.runs import make_run

TEXTS = ["the cat sat on a mat dog ran fast", "red house", "", "the blue tree ran"]


@pytest.fixture(scope="module")
def llama(tiny_bert, tmp_path_factory):
    sizes = {"num_key_value_heads": 1, "hidden_size": 64, "intermediate_size": 128}
    return save_tiny("llama", tiny_bert, tmp_path_factory.mktemp("llama"), **sizes)


def dtypes(folder):
    return {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()}


@pytest.mark.parametrize("kind", ["bert", "llama"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_bf16_is_trained_saved_and_loaded(tiny_bert, llama, tmp_path, kind, precision):
    backbone = tiny_bert if kind == "bert" else llama
    encoder = Encoder(backbone, pooler="mean", head="mlp", dropout=Dropout(attention=0.1), weights="bf16")
    assert {p.dtype for p in encoder.backbone.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in encoder.head.parameters()} == {torch.float32}
    assert "bf16 weights" in encoder.describe()
    before = encoder.eval().encode(TEXTS)
    run = make_run(tmp_path, backbone, encoder=encoder, max_steps=2, precision=precision, learning_rate=1e-2)
    Trainer(run).fit()
    want, last = encoder.eval().encode(TEXTS), run.folder / "last"
    assert np.abs(want - before).max() > 1e-3
    assert dtypes(last) == {torch.bfloat16}
    config = json.loads((last / "config.json").read_text())
    assert (config["dtype"], config["torch_dtype"]) == ("bfloat16", "bfloat16")
    assert Layout.read(last).weights == "bf16"
    again = Encoder.load(str(last))
    assert again.weights == "bf16"
    assert np.array_equal(again.encode(TEXTS), want)
    scale = float(np.abs(want).max())
    assert np.abs(SentenceTransformer(str(last)).encode(TEXTS) - want).max() < 2**-6 * scale  # its mean is in bf16
    # As the backbone of another run, it has the weights that the run asks for.
    wide = Encoder(str(last), pooler="mean")
    assert {p.dtype for p in wide.backbone.parameters()} == {torch.float32}
    assert wide.layout().weights == "fp32"
    assert np.abs(wide.eval().encode(TEXTS) - want).max() < 2**-5 * scale


def test_a_dense_after_bf16_works_in_sentence_transformers(tiny_bert, tmp_path):
    """torch refuses to multiply bf16 states by fp32 weights; the checkpoint asks for fp32 throughout."""
    encoder = Encoder(tiny_bert, head="mlp", export_head=True, weights="bf16").eval()
    loads_everywhere(encoder, tmp_path, TEXTS, 2**-5 * np.abs(encoder.encode(TEXTS)).max())
    assert dtypes(tmp_path / "saved") == {torch.bfloat16}
    assert np.array_equal(Encoder.load(str(tmp_path / "saved")).encode(TEXTS), encoder.encode(TEXTS))


def test_lora_over_bf16_is_trained_in_fp32(llama, tmp_path):
    encoder = Encoder(llama, pooler="last", adapter=Lora(rank=2, dropout=0.1), weights="bf16")
    trained = [p for p in encoder.parameters() if p.requires_grad]
    assert {p.dtype for p in trained} == {torch.float32}
    run = make_run(tmp_path, llama, encoder=encoder, max_steps=2, learning_rate=1e-1)
    Trainer(run).fit()
    want = encoder.eval().encode(TEXTS)
    again = Encoder.load(str(run.folder / "last"))
    assert again.weights == "bf16"
    assert dtypes(run.folder / "best") == {torch.bfloat16}
    assert np.abs(again.encode(TEXTS) - want).max() < 2**-5 * float(np.abs(want).max())  # merged weights are rounded
    assert np.abs(Encoder(llama, pooler="last", weights="bf16").eval().encode(TEXTS) - want).max() > 1e-2


def test_an_objective_that_reads_tokens_trains_bf16(tiny_bert, tmp_path):
    seed_dropout("init")
    encoder = Encoder(tiny_bert, head="mlp", weights="bf16")
    both = cse.WeightedSum(terms=[cse.SimCSE(), cse.MaskedLM()], weights=[1.0, 0.1])
    collator = Masked(views=TextViews(max_length=12))
    run = make_run(tmp_path, tiny_bert, encoder=encoder, objective=both, collator=collator, max_steps=2)
    Trainer(run).fit()
    assert run.progress.finished


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_refusals_before_anything_is_loaded(weights, monkeypatch):
    missing = "no/such/backbone"
    for adapter in (None, SoftPrompts()):
        refuses(rf"encoder.weights is {weights}, and .*\nfix: ", Encoder, missing, weights=weights, adapter=adapter)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=rf"{weights}, which needs a CUDA GPU.*\nfix: set encoder.weights to bf16"):
        Encoder(missing, weights=weights, adapter=Lora())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(
        UserError, match=rf"encoder.weights={weights} needs bitsandbytes.*\nfix: pip install '.*\[bnb\]'"
    ):
        Encoder(missing, weights=weights, adapter=Lora())
    refuses("soft prompts need fp32", Encoder, missing, weights="bf16", adapter=SoftPrompts())


def quantized_run(llama, folder, weights, device):
    """Two steps of QLoRA; the checkpoint holds plain bfloat16 and nearly the vectors of the run."""
    encoder = Encoder(llama, pooler="last", adapter=Lora(rank=2, dropout=0.1), weights=weights, attention="own")
    names = {type(module.weight).__name__ for module in encoder.backbone.modules() if hasattr(module, "weight")}
    assert {"int8": "Int8Params", "int4": "Params4bit"}[weights] in names
    run = make_run(folder, llama, encoder=encoder, max_steps=2, learning_rate=1e-1, device=device)
    Trainer(run).fit()
    want, last = encoder.eval().encode(TEXTS), run.folder / "last"
    assert dtypes(last) == {torch.bfloat16}
    assert "quantization_config" not in json.loads((last / "config.json").read_text())
    again = Encoder.load(str(last))
    assert again.weights == "bf16"
    off = np.linalg.norm(again.encode(TEXTS) - want, axis=1) / np.linalg.norm(want, axis=1)
    assert off.max() < 0.05


@pytest.mark.gpu
@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_qlora_on_a_gpu(llama, tmp_path, weights):
    pytest.importorskip("bitsandbytes")
    quantized_run(llama, tmp_path, weights, "cuda")


def test_qlora_by_the_slow_kernels_of_a_cpu(llama, tmp_path, monkeypatch):
    """bitsandbytes 0.50 has some for 4 bits; its backward pass for 8 bits fails on a CPU. Users are refused both."""
    pytest.importorskip("bitsandbytes")
    weights = "int4"
    real = formats.loading
    monkeypatch.setattr("cse.encoder.model.check_options", lambda *_: None)
    monkeypatch.setattr("cse.encoder.checkpoint.backbone.loading", lambda w: real(w) | {"device_map": {"": "cpu"}})
    quantized_run(llama, tmp_path, weights, "cpu")


# The kernel of attention
@pytest.mark.parametrize(("given", "used"), [("auto", "cse_short_texts"), ("eager", "eager"), ("sdpa", "sdpa")])
def test_it_is_chosen_by_name(tiny_bert, given, used):
    """`test_switch` and `test_states` compare what they compute."""
    assert Encoder(tiny_bert, attention_kernel=given).backbone.config._attn_implementation == used


def test_a_checkpoint_does_not_name_it(tiny_bert, tmp_path):
    Encoder(tiny_bert, attention_kernel="eager").save(tmp_path / "model")
    assert "attn" not in (tmp_path / "model" / "config.json").read_text().replace("attn_dropout", "")
    assert Encoder.load(str(tmp_path / "model")).attention_kernel == "auto"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("kernel", PACKAGES)
def test_without_a_gpu(tiny_bert, kernel):
    with pytest.raises(UserError, match=rf"{kernel}, which needs a CUDA GPU\nfix: remove encoder.attention_kernel"):
        Encoder(tiny_bert, attention_kernel=kernel)


@pytest.mark.parametrize(
    ("kernel", "fix"), [("flash_attention_2", "pip install flash-attn"), ("flash_attention_3", "")]
)
def test_without_its_package(tiny_bert, monkeypatch, kernel, fix):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(PACKAGES, kernel, ("no_such_package_here", PACKAGES[kernel][1]))
    with pytest.raises(UserError, match=rf"{kernel}, which needs the package no_such_package_here\nfix: {fix}"):
        Encoder(tiny_bert, attention_kernel=kernel)


def test_in_float32_another_kernel_scores_and_none_trains(tiny_bert, tmp_path, monkeypatch):
    encoder = Encoder(tiny_bert)
    encoder.backbone.config._attn_implementation = encoder.attention_kernel = "flash_attention_2"  # as on a GPU
    monkeypatch.setattr(
        encoder.backbone, "set_attn_implementation", partial(setattr, encoder.backbone.config, "_attn_implementation")
    )
    with kernel_of_precision(encoder.backbone):
        assert encoder.backbone.config._attn_implementation == "sdpa"
    assert encoder.backbone.config._attn_implementation == "flash_attention_2"
    with torch.autocast("cpu", torch.bfloat16), kernel_of_precision(encoder.backbone):
        assert encoder.backbone.config._attn_implementation == "flash_attention_2"
    with pytest.raises(UserError, match=r"computes in 16 bits, and trainer.precision is fp32"):
        Trainer(make_run(tmp_path, tiny_bert, encoder=encoder, precision="fp32"))
