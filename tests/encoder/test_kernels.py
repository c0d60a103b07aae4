"""The implementation of attention: by name, without a change of what is computed, and refused where it cannot run."""

from functools import partial

import pytest
import torch

from cse.encoder.kinds import PACKAGES, kernel_of_precision
from cse.encoder.model import Encoder
from cse.errors import UserError
from cse.training.trainer import Trainer
from tests.runs import make_run


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
