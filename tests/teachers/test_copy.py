"""Copies of the encoder: what they give, how they follow, what they share, and where their weights are."""

import numpy as np
import pytest
import torch
from torch import nn

from cse import Encoder, Lora, SimCSE, StepContext, distributed
from cse.teachers.copy import Average, EncoderCopy
from cse.teachers.queue import Queue
from cse.training.learner import Learner
from tests.cases import cases, load
from tests.objectives.helpers import refuses
from tests.teachers.test_frozen import TEXTS, batch_of


class Following(SimCSE):
    """A contrast that holds a copy, which it does not ask."""

    def __init__(self, **arguments):
        super().__init__()
        self.copy = EncoderCopy(**arguments)

    def setup(self, encoder):
        self.copy.setup(encoder)


def moved(encoder):
    """Change every weight that the encoder trains."""
    with torch.no_grad():
        for weight in encoder.parameters():
            if weight.requires_grad:
                weight += 0.1 * torch.randn_like(weight)


def copy_of(encoder, **arguments):
    copy = EncoderCopy(**arguments)
    copy.setup(encoder)
    return copy


def test_it_gives_the_vectors_of_the_start_whatever_the_encoder_becomes(tiny_bert):
    encoder = Encoder(tiny_bert, pooler="mean").train()
    want = torch.tensor(encoder.encode(TEXTS))
    copies = [copy_of(encoder), copy_of(encoder, momentum=1.0)]
    moved(encoder)
    for copy in copies:
        copy.follow(encoder)
        got = copy.embed(batch_of(encoder, TEXTS, TEXTS[::-1])[0], StepContext(encoder))
        assert not got.requires_grad
        assert torch.allclose(got, torch.stack([want, want.flip(0)], 1), atol=1e-5)


def test_layers_are_those_of_encoders_that_are_cut(tiny_bert):
    encoder = Encoder(tiny_bert)
    copy = copy_of(encoder, pooler="mean")
    batch, _ = batch_of(encoder, TEXTS, TEXTS[::-1])
    got = copy.embed_layers(batch, StepContext(encoder), [0, 1, 2])
    assert got.shape == (4, 2, 3, 16)
    for layers in (1, 2):
        want = torch.tensor(Encoder(tiny_bert, layers=layers, pooler="mean").eval().encode(TEXTS))
        assert torch.allclose(got[:, 0, layers], want, atol=1e-5)
    assert encoder.pooler == "cls"


def test_it_stays_in_evaluation_mode_unless_its_dropout_is_asked_for(tiny_bert):
    encoder = Encoder(tiny_bert).train()
    batch, _ = batch_of(encoder, TEXTS, TEXTS[::-1])
    for arguments in ({}, {"momentum": 0.5}, {"dropout": True}):
        copy = copy_of(encoder, **arguments).train()
        once, again = (copy.embed_layers(batch, StepContext(encoder), [2]) for _ in range(2))
        assert torch.equal(once, again) != ("dropout" in arguments)


def test_the_average_by_hand_and_no_gradient(tiny_bert):
    """Two steps with m = 3/4: 9/16 of the start, 3/16 of the first weights and 4/16 of the second."""
    layer = nn.Linear(2, 1, bias=False)
    nn.init.constant_(layer.weight, 16.0)
    average = Average(layer).train()
    for value in (32.0, 64.0):
        nn.init.constant_(layer.weight, value)
        average.follow(layer, 0.75)
    assert torch.equal(average.module.weight, torch.full((1, 2), 9 + 6 + 16.0))
    assert not average(torch.ones(1, 2)).requires_grad
    assert not average.module.training


@pytest.mark.parametrize("name", cases("momentum", "mocose_ema", "esimcse_ema", has=()))
def test_every_average_of_the_authors_programs(name):
    about, data = load("momentum", name)
    weights = nn.ParameterList([data["start"]])
    average = Average(weights)
    for step, (online, target) in enumerate(zip(data["online"], data["target"], strict=True)):
        weights[0].data = online
        average.follow(weights, about["decays"][step] if "decays" in about else about["momentum"])
        np.testing.assert_allclose(average.module[0].numpy(), target, rtol=1e-5, atol=1e-6)


def state_of(tiny_bert, encoder=None, **arguments):
    torch.manual_seed(0)
    encoder = encoder or Encoder(tiny_bert)
    objective = Following(**arguments)
    objective.setup(encoder)
    return Learner(encoder, objective)


def test_the_state_of_a_run_holds_a_copy_that_moves_and_no_other(tiny_bert):
    still, following = state_of(tiny_bert), state_of(tiny_bert, momentum=0.9)
    assert not [name for name in still.trained_state() if "copy" in name]
    moved(following.encoder)
    following.objective.copy.follow(following.encoder)
    again = state_of(tiny_bert, momentum=0.9)
    again.load_state_dict(following.trained_state())
    for own, other in zip(again.parameters(), following.parameters(), strict=True):
        assert torch.equal(own, other)
    for learner in (still, following):  # what an optimizer takes
        assert not [n for n, p in learner.named_parameters() if p.requires_grad and "copy" in n]


def test_frozen_weights_are_shared_and_in_no_state(tiny_bert):
    learner = state_of(tiny_bert, Encoder(tiny_bert, adapter=Lora(rank=2)), momentum=0.9)
    copy = learner.objective.copy.encoder
    own = [n for n, p in learner.encoder.named_parameters() if p.requires_grad]
    for (name, mine), other in zip(learner.encoder.named_parameters(), copy.parameters(), strict=True):
        assert (mine is other) == (name not in own)
    held = {name for name in learner.trained_state() if "copy" in name}
    assert held == {f"objective.copy.average.module.{name}" for name in own}


def test_a_hidden_copy_is_converted_with_the_objective(tiny_bert):
    objective = Following()
    objective.setup(Encoder(tiny_bert))
    assert {p.dtype for p in objective.double().copy.encoder.parameters()} == {torch.float64}
    assert not list(objective.parameters())


def vectors_of_all(rank, backbone):
    encoder = Encoder(backbone)
    copy = copy_of(encoder, momentum=0.9)
    batch, _ = batch_of(encoder, TEXTS[2 * rank : 2 * rank + 2] if distributed.world_size() > 1 else TEXTS)
    return copy.embed(batch, StepContext(encoder)).numpy()


def test_it_gives_the_vectors_of_all_processes(two_processes, tiny_bert):
    want = vectors_of_all(0, tiny_bert)
    for got in two_processes(vectors_of_all, tiny_bert):
        np.testing.assert_allclose(got, want, atol=1e-6)


def test_refusals():
    refuses(r"teacher\.momentum is 1\.5", EncoderCopy, momentum=1.5)


def test_the_oldest_rows_make_room():
    queue = Queue(3, 1)
    assert queue.rows().shape == (0, 1)
    for pushed, want in (
        ([1.0, 2.0], [1, 2]),
        ([3.0, 4.0], [2, 3, 4]),
        ([5.0, 6.0, 7.0, 8.0], [6, 7, 8]),
        ([], [6, 7, 8]),
    ):
        queue.push(torch.tensor(pushed)[:, None])
        assert queue.rows()[:, 0].tolist() == want


def test_its_state_is_its_rows():
    queue, again = Queue(4, 2), Queue(4, 2)
    queue.push(torch.randn(3, 2))
    again.load_state_dict(queue.state_dict())
    assert torch.equal(again.rows(), queue.rows())
    assert not list(queue.parameters())


def test_a_queue_of_size_0_is_empty():
    queue = Queue(0, 2)
    queue.push(torch.randn(3, 2))
    assert queue.rows().shape == (0, 2)
    refuses(r"Queue\.size is -1", Queue, -1, 2)


@pytest.mark.parametrize("name", cases("momentum", "esimcse_fifo", has=()))
def test_every_queue_of_esimcse(name):
    about, data = load("momentum", name)
    queue = Queue(about["neg_size"], data["keys"].shape[-1])
    for step, keys in enumerate(data["keys"]):
        assert len(queue.rows()) == about["columns_used_by_the_loss_at_each_step"][step]
        queue.push(keys)
        want = data[f"queue_after_{step}"][-about["neg_size"] :]  # theirs does not cut the first batch
        np.testing.assert_array_equal(queue.rows().numpy(), want)


@pytest.mark.parametrize("name", cases("momentum", "mocose_fifo", has=()))
def test_every_queue_of_mocose(name):
    """Theirs is newest first, and of a batch that is too old in part it drops the last rows, ours the first."""
    about, data = load("momentum", name)
    queue = Queue(about["queue"], data["keys"].shape[-1])
    stored = data["start"]  # of which the loss reads more than `start_size`, the number that theirs counts at first
    queue.push(stored.flip(0))
    for step, keys in enumerate(data["keys"]):
        used = about["columns_used_by_the_loss_at_each_step"][step]
        np.testing.assert_array_equal(queue.rows().flip(0).numpy(), stored[:used])
        queue.push(keys.flip(0))
        stored = data[f"queue_after_{step}"]
