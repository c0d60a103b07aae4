"""Compiled layers: the gradient of the plain path, one graph for each length, and what cannot be compiled.

The tests' compiler is torch's `eager` backend: it traces the same graphs and does not translate them, which takes
minutes. One slow test and one on a GPU do.
"""

import copy

import pytest
import torch
from accelerate import Accelerator

from cse.batch import Batch
from cse.encoder.adapters.lora import Lora
from cse.encoder.adapters.soft_prompts import SoftPrompts
from cse.encoder.dropout import Dropout
from cse.encoder.layers import bucket
from cse.encoder.model import Encoder
from cse.errors import UserError
from cse.interfaces import StepContext
from cse.objectives.simcse import SimCSE
from cse.recipe.settings import Settings
from cse.seeding import seed_dropout
from cse.training import gradcache, hardware
from cse.training.learner import Learner
from cse.training.trainer import Trainer
from tests.models import save_tiny
from tests.runs import assert_resumes, make_run, metrics


def test_buckets():
    """Each is reached, none is exceeded, and padding is less than 16 tokens or a third of the row."""
    assert [bucket(n) for n in (1, 16, 17, 48, 49, 65, 96, 97, 129, 200, 257, 512)] == [
        *(16, 16, 32, 48, 64, 96, 96, 128, 192, 256, 384, 512)
    ]
    for length in range(1, 2049):
        assert 0 <= bucket(length) - length < max(16, length / 2)
        assert bucket(bucket(length)) == bucket(length)


NONE = Dropout(attention=0.0, hidden=0.0)


def gradient_of(encoder, rows, chunk_size):
    """The gradient of a step of SimCSE at every trained weight."""
    learner = Learner(encoder, SimCSE()).train()
    ids, mask = (part[:, None].expand(-1, 2, -1) for part in encoder.pad(rows))
    batch, context = Batch(ids, mask), StepContext(encoder=encoder)
    if chunk_size is None:
        learner(batch, context)[1].loss.backward()
    else:
        gradcache.backward(Accelerator(cpu=True), learner, batch, context, chunk_size=chunk_size, seed=seed_dropout)
    return {n: p.grad for n, p in learner.named_parameters() if p.grad is not None}


LENGTHS = (3, 5, 9, 15)  # with the other tokens, the last one is beyond 16
ROWS = [[[2, *(5 + (i + j) % 9 for j in range(length + i % 3)), 3] for i in range(4)] for length in LENGTHS]


@pytest.mark.parametrize(
    ("kind", "pooler"),
    [
        ("bert", "cls"),
        pytest.param("llama", "last", marks=pytest.mark.slow),
    ],
)
def test_gradients_are_those_of_the_plain_path_and_graphs_are_few(tiny_bert, tmp_path, kind, pooler):
    """Four lengths of two buckets, of varying numbers of rows: two graphs, and two more without gradient.

    Under LoRA the first layer is unlike the others in training: no gradient flows through its input.
    """
    backbone = tiny_bert if kind == "bert" else save_tiny(kind, tiny_bert, tmp_path)
    adapter = Lora(rank=2) if kind == "llama" else None
    seed_dropout("init")
    plain = Encoder(backbone, pooler=pooler, dropout=NONE, adapter=adapter)
    adapter = Lora(rank=2) if kind == "llama" else None
    other = Encoder(backbone, pooler=pooler, dropout=NONE, adapter=adapter)
    for weight in plain.parameters():
        weight.data = weight.data * 5 if weight.any() else torch.randn_like(weight)  # lora_B starts from 0
    other.load_state_dict(plain.state_dict())
    plain, other = plain.double(), other.double()  # the gradient of equal views is small beside its terms
    compiled = other.compile_layers("eager")
    rtol = 1e-8 if kind == "bert" else 1e-4  # a Llama's norms compute in float32
    first = 2 if kind == "llama" else 0
    for chunk_size, graphs in ((None, 2 + first), (3, 4 + first)):
        for rows in ROWS:
            want, got = (gradient_of(encoder, rows, chunk_size) for encoder in (plain, other))
            assert got.keys() == want.keys()
            largest = max(float(g.abs().max()) for g in want.values())  # that of a key's bias is rounding alone
            for name, gradient in want.items():
                torch.testing.assert_close(got[name], gradient, rtol=rtol, atol=rtol * largest)
            plain.zero_grad(), other.zero_grad()
        assert compiled.graphs == graphs
    assert plain.encode(["the cat sat"]) == pytest.approx(other.encode(["the cat sat"]))
    assert copy.deepcopy(other).encode(["the cat sat"]) == pytest.approx(other.encode(["the cat sat"]))
    assert compiled.graphs == graphs  # evaluation is not compiled


def test_layers_that_are_computed_again(tiny_bert):
    plain, other = (Encoder(tiny_bert, dropout=NONE).double() for _ in "ab")
    other.compile_layers("eager")
    other.recompute()
    want, got = (gradient_of(encoder, ROWS[1], None) for encoder in (plain, other))
    for name, gradient in want.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"adapter": SoftPrompts(length=2)}, "a compiled layer would not see the soft prompts"),
        ({"dropout": Dropout(token_cutoff=0.2)}, "compiled layers take rows of other lengths than the cutoff"),
    ],
)
def test_what_cannot_be_compiled_is_refused(tiny_bert, tmp_path, options, named):
    with pytest.raises(UserError, match=named) as refused:
        Trainer(make_run(tmp_path, tiny_bert, encoder=Encoder(tiny_bert, **options), compile=True))
    assert "fix: remove trainer.compile" in str(refused.value)


def test_a_machine_without_a_compiler_is_named(monkeypatch):
    monkeypatch.setattr(hardware.shutil, "which", lambda name: None)
    (problem,) = hardware.problems(Settings(compile=True, device="cpu", precision="fp32"))
    assert problem.startswith("trainer.compile needs a C++ compiler")


@pytest.mark.slow
def test_a_compiled_run_resumes(tiny_bert, tmp_path):
    """By the compiler that users have, with dropout; its graphs are counted in the log, and its losses are near."""

    def build(folder, **more):
        return make_run(folder, tiny_bert, max_steps=4, **more)

    assert_resumes(lambda folder: build(folder, compile=True), tmp_path)
    plain = build(tmp_path / "plain", encoder=Encoder(tiny_bert, dropout=NONE))
    compiled = build(tmp_path / "compiled", encoder=Encoder(tiny_bert, dropout=NONE), compile=True)
    for run in (plain, compiled):
        Trainer(run).fit()
    for want, got in zip(metrics(plain.folder), metrics(compiled.folder), strict=True):
        assert got.pop("graphs", 1) == 1
        assert got == pytest.approx(want, rel=1e-3)
