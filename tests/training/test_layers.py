"""Layers that are compiled, or computed again in the backward pass: the gradient of the plain path, and refusals.

The tests' compiler is torch's `eager` backend: it traces the same graphs and does not translate them, which takes
minutes. One slow test and one on a GPU do.
"""

import copy
from functools import partial

import pytest
import torch
from accelerate import Accelerator

from cse import Batch, Dropout, Encoder, Lora, Settings, SimCSE, SoftPrompts, StepContext, Trainer
from cse.encoder.layers import bucket
from cse.seeding import seed_dropout
from cse.training import gradcache, hardware
from cse.training.learner import Learner
from tests.models import save_tiny
from tests.refusals import refuses
from tests.runs import assert_resumes, make_run, metrics
from tests.training.helpers import gradients

LENGTHS = (3, 5, 9, 15)  # with the other tokens, the last one is beyond 16
ROWS = [[[2, *(5 + (i + j) % 9 for j in range(length + i % 3)), 3] for i in range(4)] for length in LENGTHS]
UNEVEN = [[2, 5, 6, 7, 8, 3], [2, 9, 3], [2, 10, 11, 12, 3], [2, 13, 14, 3]]
TARGETS = {"bert": ["query", "value"], "llama": ["q_proj", "v_proj"]}


@pytest.fixture(scope="module")
def backbones(tiny_bert, tmp_path_factory):
    return {"bert": tiny_bert, "llama": save_tiny("llama", tiny_bert, tmp_path_factory.mktemp("llama"))}


def encoder_of(backbone, kind, pooler="mean", *, lora=False, dropout=0.0, head="none"):
    """An encoder in float64 whose sentences are not all alike, and whose LoRA is not 0."""
    seed_dropout("init")
    rates = Dropout(attention=dropout, hidden=dropout if kind == "bert" else None)
    adapter = Lora(rank=2, dropout=dropout, targets=TARGETS[kind]) if lora else None
    encoder = Encoder(backbone, pooler=pooler, head=head, dropout=rates, adapter=adapter)
    for weight in encoder.parameters():
        weight.data = weight.data * 5 if weight.any() else torch.randn_like(weight)  # lora_B starts from 0
    return encoder.double()  # the gradient of equal views is small beside its terms


def gradient_of(encoder, rows, chunk_size=None):
    """The gradient of a step of SimCSE at every trained weight."""
    learner = Learner(encoder, SimCSE()).train()
    ids, mask = (part[:, None].expand(-1, 2, -1) for part in encoder.pad(rows))
    batch, context = Batch(ids, mask), StepContext(encoder=encoder)
    learner.zero_grad()
    if chunk_size is None:
        seed_dropout("step")
        learner(batch, context)[1].loss.backward()
    else:
        gradcache.backward(Accelerator(cpu=True), learner, batch, context, chunk_size=chunk_size, seed=seed_dropout)
    return gradients(learner)


def assert_near(got, want, rtol=1e-8):
    assert got.keys() == want.keys()
    largest = max(float(gradient.abs().max()) for gradient in want.values())  # that of a key's bias is rounding alone
    assert largest > 1e-3
    for name, gradient in want.items():
        torch.testing.assert_close(got[name], gradient, rtol=rtol, atol=rtol * largest)


# Computed again
@pytest.mark.parametrize("chunk_size", [None, 3])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_the_gradient_of_layers_that_are_computed_again(backbones, kind, lora, dropout, chunk_size):
    pooler = "cls" if kind == "bert" and not dropout else "mean"  # the last layer of one token draws other dropout
    calls, found = [], []
    for again in (False, True):
        encoder = encoder_of(backbones[kind], kind, pooler, lora=lora, dropout=dropout, head="mlp")
        first = encoder.backbone.encoder.layer[0].attention if kind == "bert" else encoder.backbone.layers[0].self_attn
        calls.append([])
        first.register_forward_hook(lambda *_: calls[-1].append(1))
        if again:
            encoder.recompute()
        found.append(gradient_of(encoder, UNEVEN, chunk_size))
    assert_near(*found[::-1], rtol=1e-6)
    assert len(calls[1]) > len(calls[0])  # something was computed again


def test_the_prefix_of_a_template_is_shared_in_evaluation_only(backbones):
    encoder = Encoder(backbones["llama"], pooler="last", template="the cat sat on a {text} mat")
    encoder.recompute()
    assert not encoder.train().shares_prefix()
    assert encoder.eval().shares_prefix()


# Compiled
def test_buckets():
    """Each is reached, none is exceeded, and padding is less than 16 tokens or a third of the row."""
    assert [bucket(n) for n in (1, 16, 17, 48, 49, 65, 96, 97, 129, 200, 257, 512)] == [
        *(16, 16, 32, 48, 64, 96, 96, 128, 192, 256, 384, 512)
    ]
    for length in range(1, 2049):
        assert 0 <= bucket(length) - length < max(16, length / 2)
        assert bucket(bucket(length)) == bucket(length)


@pytest.mark.parametrize(
    ("kind", "pooler", "first", "rtol"),
    [("bert", "cls", 0, 1e-8), pytest.param("llama", "last", 2, 1e-4, marks=pytest.mark.slow)],
)
def test_the_gradient_of_compiled_layers_whose_graphs_are_few(backbones, kind, pooler, first, rtol):
    """Four lengths of two buckets, of varying numbers of rows: two graphs, and two more without gradient.

    Under LoRA the first layer is unlike the others in training, for no gradient flows through its input: two more.
    A Llama's norms compute in float32.
    """
    plain, other = (encoder_of(backbones[kind], kind, pooler, lora=kind == "llama") for _ in "ab")
    compiled = other.compile_layers("eager")
    for chunk_size, graphs in ((None, 2 + first), (3, 4 + first)):
        for rows in ROWS:
            assert_near(gradient_of(other, rows, chunk_size), gradient_of(plain, rows, chunk_size), rtol)
        assert compiled.graphs == graphs
    assert plain.encode(["the cat sat"]) == pytest.approx(other.encode(["the cat sat"]))
    assert copy.deepcopy(other).encode(["the cat sat"]) == pytest.approx(other.encode(["the cat sat"]))
    assert compiled.graphs == graphs  # evaluation is not compiled


def test_compiled_layers_that_are_computed_again(backbones):
    plain, other = (encoder_of(backbones["bert"], "bert") for _ in "ab")
    other.compile_layers("eager")
    other.recompute()
    assert_near(gradient_of(other, ROWS[1]), gradient_of(plain, ROWS[1]))


@pytest.mark.slow
def test_a_compiled_run_resumes(tiny_bert, tmp_path):
    """By the compiler that users have, with dropout; its graphs are counted in the log, and its losses are near."""
    build = partial(make_run, backbone=tiny_bert, max_steps=4)
    assert_resumes(partial(build, compile=True), tmp_path)
    logs = []
    for on in (False, True):
        encoder = Encoder(tiny_bert, dropout=Dropout(attention=0.0, hidden=0.0))
        logs.append(metrics(Trainer(build(tmp_path / str(on), encoder=encoder, compile=on)).fit().folder))
    for want, got in zip(*logs, strict=True):
        assert got.pop("graphs", 1) == 1
        assert got == pytest.approx(want, rel=1e-3)


# Refusals
PROMPTS, CUT = {"adapter": SoftPrompts(length=2)}, {"dropout": Dropout(token_cutoff=0.2)}
REFUSED = [  # the option, the kind of backbone, arguments of the encoder, what is said
    ("compile", "bert", PROMPTS, "a compiled layer would not see the soft prompts"),
    ("compile", "bert", CUT, "compiled layers take rows of other lengths than the cutoff"),
    ("gradient_checkpointing", "bert", PROMPTS, "would not see the soft prompts"),
    ("gradient_checkpointing", "bert", CUT, "cutoff"),
    ("gradient_checkpointing", "mpnet", {}, "a mpnet backbone does not support it"),
]


@pytest.mark.parametrize(("option", "kind", "arguments", "said"), REFUSED)
def test_what_a_backbone_cannot_is_refused_before_training(tiny_bert, tmp_path, option, kind, arguments, said):
    backbone = tiny_bert if kind == "bert" else save_tiny(kind, tiny_bert, tmp_path / kind)
    encoder = Encoder(backbone, **copy.deepcopy(arguments))
    run = make_run(tmp_path, backbone, encoder=encoder, **{option: True})
    refuses(f"trainer.{option}.*{said}.*\nfix: remove trainer.{option}", Trainer, run)
    assert not run.folder.exists()


def test_the_trainer_turns_it_on(tiny_bert, tmp_path):
    assert Trainer(make_run(tmp_path, tiny_bert, gradient_checkpointing=True)).run.encoder.recomputes
    refuses("would not see the soft prompts", lambda: Encoder(tiny_bert, **copy.deepcopy(PROMPTS)).recompute())


def test_a_machine_without_a_compiler_is_named(monkeypatch):
    monkeypatch.setattr(hardware.shutil, "which", lambda name: None)
    (problem,) = hardware.problems(Settings(compile=True, device="cpu", precision="fp32"))
    assert problem.startswith("trainer.compile needs a C++ compiler")
