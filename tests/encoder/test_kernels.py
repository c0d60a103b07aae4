"""The implementation of attention: by name, without a change of what is computed, and refused where it cannot run."""

from functools import partial

import pytest
import torch

from cse.encoder.kinds import PACKAGES, kernel_of_precision
from cse.encoder.model import Encoder
from cse.errors import UserError
from cse.training.trainer import Trainer
from tests.models import save_tiny
from tests.runs import make_run

TEXTS = ["the cat sat on a mat", "dog", "the red house ran fast"]


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_vectors_and_gradients_do_not_depend_on_the_kernel(tiny_bert, tmp_path, kind):
    backbone = tiny_bert if kind == "bert" else save_tiny(kind, tiny_bert, tmp_path / kind)
    found = []
    for kernel in ("auto", "eager", "sdpa"):
        encoder = Encoder(backbone, pooler="mean", attention_kernel=kernel)
        vectors = encoder.eval()(*encoder.pad(encoder.tokenize(TEXTS))).embedding
        (vectors**2).sum().backward()
        name, weight = next((n, p) for n, p in encoder.named_parameters() if "q" in n and p.ndim == 2)
        found.append((vectors.detach(), weight.grad))
        assert encoder.backbone.config._attn_implementation == (kernel if kernel != "auto" else "cse_short_texts"), name
    for vectors, gradient in found[1:]:
        torch.testing.assert_close(vectors, found[0][0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(gradient, found[0][1], rtol=1e-4, atol=1e-6)


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
