"""Two processes give what one gives: gradients, losses, a whole run, and an interruption. More is in `test_worlds`."""

import re

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch.nn.parallel import DistributedDataParallel

from cse import distributed
from cse.batch import Batch
from cse.data.datasets import Triplets
from cse.data.tokens import TokenStore
from cse.data.views.around import Masked
from cse.data.views.texts import TextViews
from cse.encoder.dropout import Dropout
from cse.encoder.model import Encoder
from cse.interfaces import StepContext
from cse.objectives.masked_lm import MaskedLM
from cse.objectives.simcse import SimCSE
from cse.objectives.weighted_sum import WeightedSum
from cse.seeding import seed_dropout
from cse.training import gradcache
from cse.training.learner import Encoded, Learner
from tests.cases import ORACLES, cases, settings
from tests.objectives.helpers import close
from tests.runs import assert_same, command, metrics, triplets_recipe, write_triplets
from tests.training.helpers import MOCOSE, assert_near, share, trained_by

ROWS = 8
MOMENTUM = {"class_path": "cse.objectives.momentum.Momentum", "init_args": MOCOSE}
OBJECTIVES = {
    "simcse": SimCSE,
    "masked_lm": MaskedLM,
    "weighted_sum": lambda: WeightedSum(terms=[SimCSE(), MaskedLM()], weights=[1.0, 0.1]),
}


def loss_and_gradients(rank, backbone, path, kind, caching=None, recompute=False):
    """The loss, and the gradient of every weight after DDP, in float64 and without dropout."""
    seed_dropout("init")
    objective = OBJECTIVES[kind]()
    head = "mlp" if objective.uses_views else "none"
    encoder = Encoder(backbone, head=head, pooler="mean", dropout=Dropout(attention=0.0, hidden=0.0))
    for weight in encoder.parameters():
        weight.data *= 5  # fresh weights are so small that all sentences are alike
    if recompute:
        encoder.recompute()
    objective.setup(encoder)
    learner = Learner(encoder, objective).double().train()
    data = Triplets(path)
    collator = Masked(views=TextViews(max_length=12), probability=0.4)
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
    ("kind", "caching", "recompute"),
    [
        *[("simcse", {"chunk_size": 3}, recompute) for recompute in (False, True)],
        ("simcse", {"chunk_tokens": 26}, False),
        ("simcse", None, True),
        ("masked_lm", None, False),
        *[("weighted_sum", None, recompute) for recompute in (False, True)],
    ],
)
def test_two_processes_have_the_gradient_of_one(two_processes, tiny_bert, tmp_path, kind, caching, recompute):
    path = str(write_triplets(tmp_path))
    loss, want = loss_and_gradients(0, tiny_bert, path, kind)
    for got_loss, got in two_processes(loss_and_gradients, tiny_bert, path, kind, caching, recompute):
        assert got_loss == pytest.approx(loss, rel=1e-12)
        assert got.keys() == want.keys()
        assert max(np.abs(got[n] - want[n]).max() for n in want) < 1e-12
    assert max(np.abs(g).max() for g in want.values()) > 1e-3  # so that 1e-12 means something


def loss_of_rows(rank, rows, text_id):
    """SimCSE on given embeddings (B, V, D) and text ids (B, V), each process holding its share."""
    part = share(rank, len(rows))
    mine, ids = torch.tensor(rows[part], requires_grad=True), torch.tensor(text_id[part])
    tokens = torch.zeros(*ids.shape, 1, dtype=torch.int64)
    batch = Batch(tokens, torch.ones_like(tokens), text_id=ids)
    output = Learner(torch.nn.Module(), SimCSE()).loss(batch, Encoded(mine, mine), StepContext(encoder=None))
    output.loss.backward()
    return output.loss.item(), mine.grad.numpy()


def test_a_text_on_both_processes_is_not_its_own_negative(two_processes):
    rows = np.random.default_rng(0).normal(size=(4, 2, 6))
    text_id = np.array([[0, 0], [1, 1], [0, 0], [2, 2]])  # rows 0 and 2 lie on different processes
    unit = torch.tensor(rows) / torch.tensor(rows).norm(dim=-1, keepdim=True)
    scores = unit[:, 0] @ unit[:, 1].T / 0.05
    unmasked = torch.nn.functional.cross_entropy(scores, torch.arange(4)).item()
    scores[0, 2] = scores[2, 0] = -torch.inf
    want = torch.nn.functional.cross_entropy(scores, torch.arange(4)).item()
    assert abs(want - unmasked) > 1e-3
    for loss, _ in two_processes(loss_of_rows, rows, text_id):
        assert loss == pytest.approx(want, rel=1e-10)


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


def test_a_run_of_two_processes_is_the_run_of_one(two_processes, tiny_bert, tmp_path):
    recipe = triplets_recipe(tmp_path, tiny_bert)
    one = trained_by(None, recipe, tmp_path / "one")
    assert_near(trained_by(two_processes, recipe, tmp_path / "two"), one)
    losses = [line.get("loss") for line in metrics(one)]
    assert [line["step"] for line in metrics(one)] == [0, 2, 4, 6]
    assert losses[-1] != pytest.approx(losses[1], rel=1e-2)  # it did train


@pytest.mark.parametrize("parts", [{}, {"objective": MOMENTUM}], ids=["simcse", "a queue"])
def test_ctrl_c_on_one_process_stops_both_and_resumes_exactly(two_processes, tiny_bert, tmp_path, parts):
    """Callbacks are those of the main process alone."""
    whole = trained_by(two_processes, triplets_recipe(tmp_path, tiny_bert, **parts), tmp_path / "whole")
    recipe = triplets_recipe(tmp_path, tiny_bert, strikes={"step": 3, "marker": str(tmp_path / "sent")}, **parts)
    cut = trained_by(two_processes, recipe, tmp_path / "cut", code=130)
    assert not (cut / "last").exists()
    assert two_processes(command, "train", "--resume", str(cut)) == [0, 0]
    assert_same(cut, whole)
