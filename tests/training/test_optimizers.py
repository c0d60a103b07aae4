"""Optimizers and schedules by name, and weights that learn at a rate of their own."""

import math
from contextlib import nullcontext

import pytest
import torch
from accelerate import Accelerator

from cse import Dropout, Encoder, Settings, SimCSE, StepContext, Trainer, UserError
from cse.training import gradcache
from cse.training.learner import Learner
from cse.training.optimizers import optimizers, set_rate
from tests.refusals import refuses
from tests.runs import make_run
from tests.training.helpers import gradients
from tests.training.test_gradcache import batch_of

CPU = torch.device("cpu")


def test_the_rate_of_every_schedule():
    """By arithmetic: a warm-up of 2 steps to 1, and 8 steps more."""

    def rates(**settings):
        of = Settings(learning_rate=1.0, warmup_steps=2, **settings)
        return [of.rate(step, 10) for step in range(10)]

    assert rates(schedule="linear") == pytest.approx([0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])
    assert rates(schedule="constant") == pytest.approx([0.5] + 9 * [1])
    assert rates(schedule="cosine")[2:] == pytest.approx([(1 + math.cos(math.pi * i / 8)) / 2 for i in range(8)])
    assert rates(schedule="wsd", decay_share=0.4) == pytest.approx([0.5] + 6 * [1] + [3 / 4, 2 / 4, 1 / 4])


@pytest.mark.parametrize("name", ["adamw", "adafactor", "muon"])
def test_an_optimizer_trains_as_torch_trains_the_same_weights(tiny_bert, tmp_path, name):
    """A run of four steps against a loop of our own over the same batches, without the trainer."""

    def encoder():
        torch.manual_seed(0)
        encoder = Encoder(tiny_bert, head="mlp", dropout=Dropout(attention=0.0, hidden=0.0))
        return encoder.double()  # or Adam would enlarge the rounding of gradients that are 0

    run = make_run(
        tmp_path, tiny_bert, triplets=True, encoder=encoder(), evaluator=False, optimizer=name, max_steps=4, clip=1e9
    )
    trainer = Trainer(run)
    batches = [parts[0] for parts in trainer._load(run.data, 0, None)]
    trainer.fit()

    learner = Learner(encoder(), SimCSE()).train()
    layers = learner.encoder.backbone.encoder.layer
    matrices = [p for p in layers.parameters() if p.ndim == 2]
    rest = [p for p in learner.parameters() if p.requires_grad and not any(p is m for m in matrices)]
    made = {
        "adamw": lambda: [torch.optim.AdamW([*rest, *matrices], weight_decay=0.0)],
        "adafactor": lambda: [torch.optim.Adafactor([*rest, *matrices], weight_decay=0.0)],
        "muon": lambda: [
            torch.optim.AdamW(rest, weight_decay=0.0),
            torch.optim.Muon(matrices, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        ],
    }[name]()
    for step, batch in enumerate(batches):
        learner(batch, StepContext(encoder=learner.encoder))[1].loss.backward()
        for optimizer in made:
            for group in optimizer.param_groups:
                group["lr"] = 1e-3 * (4 - step) / 4
            optimizer.step()
            optimizer.zero_grad()
    got, want = dict(run.encoder.named_parameters()), dict(learner.encoder.named_parameters())
    assert got.keys() == want.keys()
    assert max(float((got[n] - want[n]).detach().abs().max()) for n in want) < 1e-9


def test_layers_and_heads_learn_at_their_own_rates(tiny_bert):
    """The first step of Adam moves every weight that has a gradient by its rate."""
    settings = Settings(learning_rate=0.1, layer_decay=0.5, head_learning_rate=0.4)
    learner = Learner(Encoder(tiny_bert, head="mlp"), SimCSE())
    before = {name: p.detach().clone() for name, p in learner.named_parameters()}
    (optimizer,) = optimizers(settings, learner, CPU)
    set_rate(optimizer, 0.1)
    for parameter in learner.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    moved = {name: float((before[name] - p.detach()).abs().mean()) for name, p in learner.named_parameters()}
    depth = len(learner.encoder.backbone.encoder.layer)
    for name, distance in moved.items():
        if ".embeddings." in name:
            want = 0.1 * 0.5**depth
        elif ".layer." in name:
            want = 0.1 * 0.5 ** (depth - 1 - int(name.split(".layer.")[1].split(".")[0]))
        else:
            want = 0.4 if ".head." in name else 0.1
        assert distance == pytest.approx(want, rel=1e-3), name


@pytest.mark.parametrize("count", [1, 2])
def test_the_last_layers_alone_learn(tiny_bert, tmp_path, count):
    """They move by the step that they take where everything learns, and the weights below stay to the bit."""
    start = dict(Encoder(tiny_bert).backbone.named_parameters())
    ends = {}
    for name, options in {"all": {}, "last": {"train_layers": count}}.items():
        run = make_run(tmp_path / name, tiny_bert, max_steps=1, clip=1e9, **options)
        ends[name] = dict(Trainer(run).fit().encoder.backbone.named_parameters())
    moved = {name for name, weight in ends["last"].items() if not torch.equal(weight, start[name])}
    learn = {name for name in start if any(f".layer.{i}." in name for i in range(2 - count, 2))}
    assert moved == learn
    for name in learn:
        torch.testing.assert_close(ends["last"][name], ends["all"][name], atol=1e-6, rtol=0)
    assert not torch.equal(ends["all"]["embeddings.word_embeddings.weight"], start["embeddings.word_embeddings.weight"])


class Scaled:
    """An accelerator that scales the loss, as in fp16."""

    def backward(self, loss):
        (1024 * loss).backward()

    def no_sync(self, model):
        return nullcontext()


def test_cached_gradients_are_scaled_once(tiny_bert, tmp_path):
    encoder = Encoder(tiny_bert, head="mlp", dropout=Dropout(attention=0.0, hidden=0.0)).double()
    run = make_run(tmp_path, tiny_bert, encoder=encoder)
    learner, ctx = Learner(encoder, SimCSE()).train(), StepContext(encoder=encoder)
    batch = batch_of(encoder, run, 8)
    found = []
    for accelerator in (Accelerator(cpu=True), Scaled()):
        learner.zero_grad()
        gradcache.backward(accelerator, learner, batch, ctx, chunk_size=3, seed=lambda i: None)
        found.append(gradients(learner))
    plain, scaled = found
    assert max(float((1024 * plain[n] - scaled[n]).abs().max()) for n in plain) < 1e-6


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"precision": "tf32"}, "tf32, which needs a CUDA GPU"),
        ({"layer_decay": 0.0}, "trainer.layer_decay is 0.0"),
        ({"decay_share": 1.5}, "trainer.decay_share is 1.5"),
        ({"head_learning_rate": -1.0}, "trainer.head_learning_rate is -1.0"),
        ({"train_layers": 3}, "trainer.train_layers is 3, and the backbone has 2 layers"),
    ],
)
def test_what_cannot_run_is_refused_in_one_line(tiny_bert, tmp_path, options, named):
    said = refuses(named, lambda: Trainer(make_run(tmp_path, tiny_bert, **options)))
    assert len(said.splitlines()) == 2


def test_a_rate_for_no_weights_is_refused(tiny_bert, tmp_path):
    with pytest.raises(UserError, match=r"trainer.head_learning_rate is 0.1, but neither"):
        Trainer(make_run(tmp_path, tiny_bert, encoder=Encoder(tiny_bert), head_learning_rate=0.1))
