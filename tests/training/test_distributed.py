"""One, two and four processes give one loss and one gradient: of a step, of the authors' cases, and of whole runs."""

import itertools
import os
import re

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch.nn.parallel import DistributedDataParallel

from cse import Batch, Dropout, Encoder, SimCSE, StepContext, TextViews, Triplets, cli, distributed
from cse.data.tokens import TokenStore
from cse.seeding import seed_dropout
from cse.training import gradcache
from cse.training.learner import Encoded, Learner
from tests.cases import ORACLES, cases, settings
from tests.mining.test_refresh import REFRESH
from tests.mining.test_refresh import tiny_recipe as rows_with_negatives
from tests.objectives.helpers import close
from tests.runs import assert_same, command, metrics, triplets_recipe, write_triplets
from tests.training.helpers import MOCOSE, mixture_content, mixture_file, share, trained_by

ROWS = 8
MOMENTUM = {"class_path": "cse.objectives.momentum.Momentum", "init_args": MOCOSE}


def loss_and_gradients(rank, backbone, path, caching=None, recompute=False):
    """The loss of SimCSE, and the gradient of every weight after DDP, in float64 and without dropout."""
    seed_dropout("init")
    encoder = Encoder(backbone, head="mlp", pooler="mean", dropout=Dropout(attention=0.0, hidden=0.0))
    for weight in encoder.parameters():
        weight.data *= 5  # fresh weights are so small that all sentences are alike
    if recompute:
        encoder.recompute()
    learner = Learner(encoder, SimCSE()).double().train()
    data, collator = Triplets(path), TextViews(max_length=12)
    collator.setup(TokenStore.build(data.unique_texts(), encoder.tokenizer, 12), 3)
    batch = collator(data[:ROWS][share(rank, ROWS)])
    ctx = StepContext(encoder=encoder, local_rows=distributed.local_rows(batch.size))
    model = learner if distributed.world_size() == 1 else DistributedDataParallel(learner)
    if caching is None:
        output = model(batch, ctx)[1]
        output.loss.backward()
    else:
        output = gradcache.backward(Accelerator(cpu=True), model, batch, ctx, **caching, seed=lambda i: None)[1]
    return output.loss.item(), {n: p.grad.numpy() for n, p in learner.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("caching", "recompute"),
    [({"chunk_size": 3}, False), ({"chunk_size": 3}, True), ({"chunk_tokens": 26}, False), (None, True)],
)
def test_two_processes_have_the_gradient_of_one(two_processes, tiny_bert, tmp_path, caching, recompute):
    """Of every objective, cached or not, it is part of the contract."""
    path = str(write_triplets(tmp_path))
    loss, want = loss_and_gradients(0, tiny_bert, path)
    for got_loss, got in two_processes(loss_and_gradients, tiny_bert, path, caching, recompute):
        assert got_loss == pytest.approx(loss, rel=1e-12)
        assert got.keys() == want.keys()
        assert max(np.abs(got[n] - want[n]).max() for n in want) < 1e-12
    assert max(np.abs(g).max() for g in want.values()) > 1e-3  # so that 1e-12 means something


def oracle_case(rank, states, views, arguments):
    """Loss, logits, and gradients of hidden states (n, L, H) and of a weight (H, H), 1 at first, after averaging.

    The weight stands between [CLS] and the loss, so that its averaged gradient is what DDP would give it.
    """
    hidden = torch.tensor(states[share(rank, len(states))], requires_grad=True)
    weight = torch.eye(states.shape[-1], requires_grad=True)
    rows = (hidden[:, 0] @ weight).unflatten(0, (-1, views))
    tokens = torch.zeros(len(rows), views, 1, dtype=torch.int64)
    learner = Learner(torch.nn.Module(), SimCSE(**arguments))
    loss = learner.loss(Batch(tokens, torch.ones_like(tokens)), Encoded(rows, rows), StepContext(encoder=None)).loss
    loss.backward()
    averaged = distributed.all_sum(weight.grad) / distributed.world_size()
    return loss.item(), hidden.grad.numpy(), averaged.numpy()


@pytest.mark.parametrize("name", cases("simcse", "dist_S", has="loss_rank"))
def test_every_two_process_case_of_the_authors(two_processes, name):
    """The authors keep the local gradient in their gather, and DDP's average then leaves 1/W of the gradient.

    Ours sums over processes in the gather. So the gradient at this process's rows is W times theirs, and DDP's average
    of the weights' gradients is that of one process, which theirs is not.
    """
    about = settings("simcse")[name]
    views, weight = re.fullmatch(r"dist_S(\d+)(?:_w([\d.]+))?.*", name).groups()  # the name says what settings do not
    own = ORACLES / f"simcse_{name.replace('dist_', 'dist_in_')}.npz"
    states = np.load(own if own.is_file() else ORACLES / f"simcse_dist_in_S{views}.npz")["hs"]
    arguments = {
        "temperature": about.get("temp", 0.05),
        "hard_negative_weight": about.get("hard_negative_weight", float(weight or 0)),
    }
    single = np.load(ORACLES / f"simcse_{name}_single.npz")
    weight_gradient = states[:, 0].T @ single["grad_hs"][:, 0]  # d loss / d weight at weight = 1
    for rank, (loss, local, averaged) in enumerate(two_processes(oracle_case, states, int(views), arguments)):
        theirs = np.load(ORACLES / f"simcse_{name}_rank{rank}.npz")
        assert loss == pytest.approx(about["loss_rank"][rank], rel=1e-5)
        assert loss == pytest.approx(about["loss_single"], rel=1e-5)
        close(local / 2, theirs["grad_hs"])
        close(averaged, weight_gradient)


@pytest.mark.parametrize("parts", [{}, {"objective": MOMENTUM}], ids=["simcse", "a queue"])
def test_ctrl_c_on_one_process_stops_both_and_resumes_exactly(two_processes, tiny_bert, tmp_path, parts):
    """Callbacks are those of the main process alone."""
    whole = trained_by(two_processes, triplets_recipe(tmp_path, tiny_bert, **parts), tmp_path / "whole")
    recipe = triplets_recipe(tmp_path, tiny_bert, strikes={"step": 3, "marker": str(tmp_path / "sent")}, **parts)
    cut = trained_by(two_processes, recipe, tmp_path / "cut", code=130)
    assert not (cut / "last").exists()
    assert two_processes(command, "train", "--resume", str(cut)) == [0, 0]
    assert_same(cut, whole)


# Whole runs
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
