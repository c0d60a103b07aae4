"""Runs with a queue and a copy that follows: killed and resumed, cached and accumulated, and what they publish."""

import pytest
import torch
from safetensors.torch import load_file

from cse.encoder.dropout import Dropout
from cse.encoder.model import Encoder
from cse.objectives.momentum import Momentum
from cse.objectives.sg_opt import SGOPT
from cse.seeding import seed_dropout
from cse.training.trainer import Trainer
from tests.runs import Dies, assert_resumes, make_run, metrics, weights
from tests.training.helpers import MOCOSE


def build(folder, backbone, *, objective=None, encoder=None, **more):
    """A run on triplets."""
    seed_dropout(1)
    encoder = encoder or Encoder(backbone, pooler="mean")
    seed_dropout(2)  # for what the objective draws in its setup
    objective = objective or Momentum(**MOCOSE)
    return make_run(folder, backbone, triplets=True, encoder=encoder, objective=objective, **more)


def state(run):
    """The tensors that a run would resume with."""
    return torch.load(run.folder / "state" / "state.pt", weights_only=True)["learner"]


def test_a_killed_run_has_the_queue_and_the_copy_of_one_that_was_not(tiny_bert, tmp_path):
    """Killed in step 5, after the state of step 4 was written; the queue is then full, and the copy has moved."""
    whole, again = assert_resumes(lambda folder: build(folder, tiny_bert), tmp_path, Dies(5))
    assert metrics(whole.folder)[-1]["queue"] == 20
    want, got = state(whole), state(again)
    assert want.keys() == got.keys()
    assert all(torch.equal(got[name], want[name]) for name in want)
    copied = {name.partition("average.module.")[2] for name in want if "copy" in name}
    assert copied == {name.removeprefix("encoder.") for name in want if name.startswith("encoder.")} != set()


@pytest.mark.parametrize("settings", [{"chunk_size": 3}, {"accumulation": 2}, {"accumulation": 2, "chunk_size": 3}])
def test_cached_and_accumulated_steps_are_the_direct_ones(tiny_bert, tmp_path, settings):
    """Without negatives of the batch, the loss of a row depends on the queue alone, so that parts of a batch add up."""
    arguments = {"candidates": "keys", "dual_view": True, "hardest": 4, "queue_size": 12, "queue_start": 6}

    def run(folder, **more):
        encoder = Encoder(tiny_bert, pooler="mean", dropout=Dropout(attention=0.0, hidden=0.0))
        objective = Momentum(**arguments)
        return Trainer(build(folder, tiny_bert, encoder=encoder, objective=objective, max_steps=3, **more)).fit()

    direct, other = run(tmp_path / "direct"), run(tmp_path / "other", **settings)
    queue, same = (state(r)["objective.queue.vectors"] for r in (direct, other))
    assert torch.allclose(queue, same, atol=1e-4)
    losses = [[line["loss"] for line in metrics(r.folder)[1:]] for r in (direct, other)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert min(losses[0]) > 0.1


@pytest.mark.parametrize("objective", [lambda: Momentum(**MOCOSE), lambda: SGOPT(head_width=8)])
def test_a_checkpoint_is_that_of_the_encoder_alone(tiny_bert, tmp_path, objective):
    run = Trainer(build(tmp_path, tiny_bert, objective=objective(), max_steps=2)).fit()
    Encoder(tiny_bert, pooler="mean").save(tmp_path / "plain")
    folders = [run.folder / "best", run.folder / "last", tmp_path / "plain"]
    assert weights(folders[0]).keys() == weights(folders[1]).keys() == weights(folders[2]).keys()
    shapes = [{k: value.shape for k, value in load_file(f / "model.safetensors").items()} for f in folders]
    assert shapes[0] == shapes[1] == shapes[2]
