"""Gradient checkpointing: the gradient of the plain path, with dropout, LoRA and gradient caching; its refusals."""

import pytest
import torch
from accelerate import Accelerator

from cse.batch import Batch
from cse.encoder import fast
from cse.encoder.adapters.lora import Lora
from cse.encoder.adapters.soft_prompts import SoftPrompts
from cse.encoder.dropout import Dropout
from cse.encoder.model import Encoder
from cse.errors import UserError
from cse.interfaces import StepContext
from cse.objectives.simcse import SimCSE
from cse.seeding import seed_dropout
from cse.training import gradcache
from cse.training.learner import Learner
from cse.training.trainer import Trainer
from tests.models import save_tiny
from tests.runs import make_run, metrics

ROWS = [[2, 5, 6, 7, 8, 3], [2, 9, 3], [2, 10, 11, 12, 3], [2, 13, 14, 3]]


@pytest.fixture(scope="module")
def backbones(tiny_bert, tmp_path_factory):
    sizes = {"num_key_value_heads": 1, "head_dim": 8}
    return {"bert": tiny_bert, "llama": save_tiny("llama", tiny_bert, tmp_path_factory.mktemp("llama"), **sizes)}


def gradients(backbone, *, recompute, kind, lora, dropout, pooler, chunk_size):
    """The gradient of SimCSE at every trained weight, and how often the first layer's attention was computed."""
    seed_dropout("init")
    rates = Dropout(attention=dropout, hidden=dropout if kind == "bert" else None)
    targets = ["query", "value"] if kind == "bert" else ["q_proj", "v_proj"]
    adapter = Lora(rank=2, dropout=dropout, targets=targets) if lora else None
    encoder = Encoder(backbone, pooler=pooler, head="mlp", dropout=rates, adapter=adapter)
    for weight in encoder.parameters():
        weight.data = weight.data * 5 if weight.any() else torch.randn_like(weight)  # lora_B starts from 0
    if recompute:
        encoder.recompute()
    calls = []
    first = encoder.backbone.encoder.layer[0].attention if kind == "bert" else encoder.backbone.layers[0].self_attn
    first.register_forward_hook(lambda *_: calls.append(1))
    learner = Learner(encoder, SimCSE()).train()
    ids, mask = (part[:, None].expand(-1, 2, -1) for part in encoder.pad(ROWS))
    batch, context = Batch(ids, mask), StepContext(encoder=encoder)
    if chunk_size is None:
        seed_dropout("step")
        learner(batch, context)[1].loss.backward()
    else:
        gradcache.backward(
            Accelerator(cpu=True), learner, batch, context, chunk_size=chunk_size, seed=lambda i: seed_dropout(i)
        )
    return {n: p.grad for n, p in learner.named_parameters() if p.grad is not None}, len(calls)


@pytest.mark.parametrize("chunk_size", [None, 3])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_the_gradient_is_that_of_the_plain_path(backbones, kind, lora, dropout, chunk_size):
    options = {"kind": kind, "lora": lora, "dropout": dropout, "pooler": "mean", "chunk_size": chunk_size}
    want, plain = gradients(backbones[kind], recompute=False, **options)
    got, again = gradients(backbones[kind], recompute=True, **options)
    assert got.keys() == want.keys()
    largest = max(float(g.abs().max()) for g in want.values())
    assert largest > 1e-3
    assert max(float((got[n] - want[n]).abs().max()) for n in want) <= 1e-6 * max(1.0, largest)
    assert again > plain  # something was recomputed


def test_the_last_layers_first_token_alone_is_not_used_then(backbones):
    options = {"kind": "bert", "lora": False, "dropout": 0.0, "pooler": "cls", "chunk_size": None}
    want, _ = gradients(backbones["bert"], recompute=False, **options)
    got, _ = gradients(backbones["bert"], recompute=True, **options)
    largest = max(float(g.abs().max()) for g in want.values())
    assert max(float((got[n] - want[n]).abs().max()) for n in want) <= 1e-6 * max(1.0, largest)


def test_the_prefix_of_a_template_is_shared_in_evaluation_only(backbones):
    encoder = Encoder(backbones["llama"], pooler="last", template="the cat sat on a {text} mat")
    encoder.recompute()
    assert not encoder.train().shares_prefix()
    assert encoder.eval().shares_prefix()


def test_a_run_is_the_same_run(tiny_bert, tmp_path):
    """Mean pooling, whose dropout draws the same numbers either way."""
    runs = {}
    for on in (False, True):
        seed_dropout("init")
        encoder = Encoder(tiny_bert, pooler="mean", head="mlp")
        run = make_run(tmp_path / str(on), tiny_bert, encoder=encoder, chunk_size=3, gradient_checkpointing=on)
        Trainer(run).fit()
        assert run.encoder.recomputes is on
        runs[on] = metrics(run.folder)
    for plain, again in zip(runs[False], runs[True], strict=True):
        assert [again[k] for k in plain] == pytest.approx([plain[k] for k in plain], rel=1e-4)


def test_refusals_are_reported_before_training(tiny_bert, tmp_path):
    mpnet = save_tiny("mpnet", tiny_bert, tmp_path / "mpnet")
    cases = [
        (Encoder(mpnet), "a mpnet backbone does not support it"),
        (Encoder(tiny_bert, adapter=SoftPrompts(length=3)), "would not see the soft prompts"),
        (Encoder(tiny_bert, dropout=Dropout(token_cutoff=0.2)), "cutoff"),
    ]
    for number, (encoder, reason) in enumerate(cases):
        run = make_run(tmp_path / str(number), tiny_bert, encoder=encoder, gradient_checkpointing=True)
        with pytest.raises(UserError, match=f"trainer.gradient_checkpointing: .*{reason}.*\nfix: remove trainer"):
            Trainer(run)
        assert not run.folder.exists()
        with pytest.raises(UserError, match=reason):
            encoder.recompute()


def test_with_the_accelerations_off(backbones):
    options = {"kind": "bert", "lora": False, "dropout": 0.2, "pooler": "cls", "chunk_size": None}
    with fast.off():
        want, _ = gradients(backbones["bert"], recompute=False, **options)
        got, _ = gradients(backbones["bert"], recompute=True, **options)
    largest = max(float(g.abs().max()) for g in want.values())
    assert max(float((got[n] - want[n]).abs().max()) for n in want) <= 1e-6 * max(1.0, largest)
