"""One, two and four processes give one loss and one gradient, step by step: what a step does beside the loss."""

import itertools
import os

import numpy as np
import pytest
from accelerate import Accelerator

from cse import cli
from cse.training.learner import Learner
from tests.mining.test_refresh import REFRESH
from tests.mining.test_refresh import tiny_recipe as rows_with_negatives
from tests.runs import metrics, triplets_recipe
from tests.training.helpers import mixture_content, mixture_file

MINED = {**REFRESH, "init_args": {**REFRESH["init_args"], "precision": "fp32"}}
QUEUE = {"class_path": "cse.objectives.momentum.Momentum", "init_args": {"queue_size": 12}}


def queue(folder, backbone):
    """Momentum contrast: keys of earlier steps, and a copy that follows."""
    return triplets_recipe(folder, backbone, objective=QUEUE)


def mined(folder, backbone):
    """Negatives that are mined anew each two steps, beside 0 to 3 of a row's own."""
    return rows_with_negatives(folder, backbone, negatives=MINED)


def mined_and_queue(folder, backbone):
    """Both."""
    return rows_with_negatives(folder, backbone, negatives=MINED, objective=QUEUE)


def mixture(folder, backbone):
    """Three sources with an objective each: one with a queue, one with unequal numbers of negatives."""
    mined(folder, backbone)  # writes ragged.tsv
    recipe = mixture_content(folder, backbone)
    recipe["data"]["init_args"]["schedule"] = "round_robin"
    nli, plain, _ = recipe["data"]["init_args"]["sources"].values()
    nli["data"]["init_args"] = {"path": str(folder / "ragged.tsv"), "columns": ["a", "p", "n1", "n2", "n3"]}
    nli["weight"] = 1
    plain |= {"objective": QUEUE, "batch_size": 16}
    return mixture_file(folder, recipe)


RUNS = {"queue": queue, "mined": mined, "mined and queue": mined_and_queue, "mixture": mixture}
PARTS = {
    "whole": {},
    "accumulated": {"accumulation": 2},
    "cached": {"chunk_size": 1},
    "accumulated and cached by tokens": {"accumulation": 2, "chunk_tokens": 30},
}


def trained(rank, recipe, folder, *options):
    """Train in float64; the gradient of every weight in every step, None where it has none."""
    os.environ["CSE_TRUSTED_MODULES"] = "tests"
    steps, build, clip = [], Learner.__init__, Accelerator.clip_grad_norm_

    def double(self, *arguments):
        build(self, *arguments)
        self.double()

    def note(self, weights, norm):
        weights = list(weights)
        steps.append([None if w.grad is None else w.grad.numpy().copy() for w in weights])
        return clip(self, weights, norm)

    Learner.__init__, Accelerator.clip_grad_norm_ = double, note
    try:
        assert cli.main(["train", recipe, "--run-dir", folder, "--trainer.batch_size=8", *options]) == 0
    finally:
        Learner.__init__, Accelerator.clip_grad_norm_ = build, clip
    return steps


def assert_one(folder, run, parts, *groups):
    """Runs of the groups of processes are the run of this process, in the loss and the gradient of each step."""
    options = [f"--trainer.{name}={value}" for name, value in parts.items()]
    arguments = [run, str(folder / "1"), *options]
    want, lines = trained(0, *arguments), metrics(folder / "1")
    assert [line["step"] for line in lines] == [0, 2, 4, 6]
    assert len({line["loss"] for line in lines[1:]}) == 3
    assert min(max(np.abs(g).max() for g in step if g is not None) for step in want) > 1e-3
    for size, group in groups:
        for steps in group(trained, run, str(folder / str(size)), *options):
            for got, expected in zip(steps, want, strict=True):
                assert [g is None for g in got] == [g is None for g in expected]
                pairs = [(a, b) for a, b in zip(got, expected, strict=True) if b is not None]
                assert max(np.abs(a - b).max() for a, b in pairs) < 1e-7
        for one, other in zip(lines, metrics(folder / str(size)), strict=True):
            assert other == pytest.approx(one, rel=1e-7)


def test_two_processes_mine_and_queue_as_one(two_processes, tiny_bert, tmp_path):
    """The cheap one: mined negatives and a queue, accumulated and cached."""
    recipe = mined_and_queue(tmp_path, tiny_bert)
    assert_one(tmp_path, recipe, PARTS["accumulated and cached by tokens"], (2, two_processes))


@pytest.mark.slow
@pytest.mark.parametrize(("run", "parts"), itertools.product(RUNS, PARTS))
def test_two_and_four_processes_are_one(run, parts, two_processes, four_processes, tiny_bert, tmp_path):
    groups = (2, two_processes), (4, four_processes)
    assert_one(tmp_path, RUNS[run](tmp_path, tiny_bert), PARTS[parts], *groups)
