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
from tests.runs import make_run, metrics, weights, write_recipe, write_triplets
from tests.training.test_distributed import command
from tests.training.test_trainer import Dies

MOCOSE = {
    "candidates": "keys",
    "key_head": "average",
    "schedule": "cosine",
    "asymmetric": True,
    "momentum": 0.75,
    "queue_size": 20,
    "queue_start": 3,
}


def trained(folder, backbone, *, resume=False, callbacks=(), objective=None, **more):
    """A run on triplets."""
    seed_dropout(1)
    encoder = more.pop("encoder", None) or Encoder(backbone, pooler="mean")
    seed_dropout(2)  # for what the objective draws in its setup
    run = make_run(folder, backbone, triplets=True, encoder=encoder, objective=objective or Momentum(**MOCOSE), **more)
    run.callbacks = list(callbacks)
    Trainer(run).fit(resume=resume)
    return run


def state(run):
    """The tensors that a run would resume with."""
    return torch.load(run.folder / "state" / "state.pt", weights_only=True)["learner"]


def test_a_killed_run_has_the_queue_and_the_copy_of_one_that_was_not(tiny_bert, tmp_path):
    """Killed in step 5, after the state of step 4 was written; the queue is then full, and the copy has moved."""
    whole = trained(tmp_path / "whole", tiny_bert)
    with pytest.raises(RuntimeError, match="killed"):
        trained(tmp_path / "killed", tiny_bert, callbacks=[Dies("step", 5)])
    again = trained(tmp_path / "killed", tiny_bert, resume=True)
    assert metrics(again.folder) == metrics(whole.folder)
    assert metrics(whole.folder)[-1]["queue"] == 20
    for name in ("best", "last"):
        assert weights(again.folder / name) == weights(whole.folder / name)
    want, got = state(whole), state(again)
    assert want.keys() == got.keys()
    assert all(torch.equal(got[name], want[name]) for name in want)
    copied = {name.partition("average.module.")[2] for name in want if "copy" in name}
    assert copied == {name.removeprefix("encoder.") for name in want if name.startswith("encoder.")} != set()


def test_two_processes_that_are_interrupted_resume_bit_for_bit(two_processes, tiny_bert, tmp_path):
    def recipe(folder, **callback):
        callbacks = [{"class_path": "tests.training.test_distributed.Interrupts", "init_args": callback}]
        init, objective = {"path": str(write_triplets(tmp_path))}, "cse.objectives.momentum.Momentum"
        return write_recipe(
            tmp_path,
            "Triplets",
            init,
            {"backbone": tiny_bert, "pooler": "mean"},
            objective={"class_path": objective, "init_args": MOCOSE},
            callbacks=callbacks if callback else [],
        )

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert two_processes(command, "train", recipe(whole), "--run-dir", str(whole)) == [0, 0]
    interrupted = recipe(cut, marker=str(tmp_path / "sent"), step=3)
    assert two_processes(command, "train", interrupted, "--run-dir", str(cut)) == [130, 130]
    assert two_processes(command, "train", "--resume", str(cut)) == [0, 0]
    assert metrics(cut) == metrics(whole)
    assert weights(cut / "last") == weights(whole / "last")


@pytest.mark.parametrize("settings", [{"chunk_size": 3}, {"accumulation": 2}, {"accumulation": 2, "chunk_size": 3}])
def test_cached_and_accumulated_steps_are_the_direct_ones(tiny_bert, tmp_path, settings):
    """Without negatives of the batch, the loss of a row depends on the queue alone, so that parts of a batch add up."""
    arguments = {"candidates": "keys", "dual_view": True, "hardest": 4, "queue_size": 12, "queue_start": 6}

    def run(folder, **more):
        encoder = Encoder(tiny_bert, pooler="mean", dropout=Dropout(attention=0.0, hidden=0.0))
        return trained(folder, tiny_bert, encoder=encoder, objective=Momentum(**arguments), max_steps=3, **more)

    direct, other = run(tmp_path / "direct"), run(tmp_path / "other", **settings)
    queue, same = (state(r)["objective.queue.vectors"] for r in (direct, other))
    assert torch.allclose(queue, same, atol=1e-4)
    losses = [[line["loss"] for line in metrics(r.folder)[1:]] for r in (direct, other)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert min(losses[0]) > 0.1


@pytest.mark.parametrize("objective", [lambda: Momentum(**MOCOSE), lambda: SGOPT(head_width=8)])
def test_a_checkpoint_is_that_of_the_encoder_alone(tiny_bert, tmp_path, objective):
    run = trained(tmp_path, tiny_bert, objective=objective(), max_steps=2)
    Encoder(tiny_bert, pooler="mean").save(tmp_path / "plain")
    plain = weights(tmp_path / "plain")
    for name in ("best", "last"):
        assert weights(run.folder / name).keys() == plain.keys()
        shapes = [
            {key: value.shape for key, value in load_file(folder / "model.safetensors").items()}
            for folder in (run.folder / name, tmp_path / "plain")
        ]
        assert shapes[0] == shapes[1]
