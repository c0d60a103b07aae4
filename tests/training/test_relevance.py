"""Graded positives: from columns of the data to the loss, on one process and on two."""

import pytest
import torch

from cse.batch import Batch
from cse.data.datasets import Pairs
from cse.errors import UserError
from cse.interfaces import StepContext
from cse.objectives.gcl import GradedGCL
from cse.training.learner import Encoded, Learner
from cse.training.trainer import Trainer
from tests.runs import make_run, metrics, write_texts
from tests.training.test_distributed import share


def graded(folder, relevances):
    """A table of a query, two documents and their relevances per row."""
    lines = write_texts(folder, 3 * len(relevances)).read_text().splitlines()
    rows = ["q\td1\td2\tr1\tr2"]
    for i, pair in enumerate(relevances):
        rows.append("\t".join([*lines[3 * i : 3 * i + 3], *map(str, pair)]))
    (folder / "rows.tsv").write_text("\n".join(rows) + "\n")
    return str(folder / "rows.tsv")


def run_on(folder, backbone, relevances, objective=None, graded_columns=("r1", "r2")):
    run = make_run(folder, backbone, objective=objective or GradedGCL(), max_steps=1)
    run.data = Pairs(graded(folder, relevances), columns=("q", "d1", "d2"), relevance_columns=graded_columns)
    return run


def test_relevance_reaches_the_loss(tiny_bert, tmp_path):
    losses = []
    for name, relevances in {"a": [(1, 0)] * 8, "b": [(2, 0)] * 8, "c": [(1, 3)] * 8}.items():
        run = run_on(tmp_path / name, tiny_bert, relevances)
        Trainer(run).fit()
        losses.append(metrics(run.folder)[-1]["loss"])
    assert losses[0] == losses[1] != losses[2]  # a factor of a row's relevances changes nothing


def test_what_does_not_fit_is_refused(tiny_bert, tmp_path):
    run = make_run(tmp_path / "simcse", tiny_bert)
    run.data = run_on(tmp_path / "simcse", tiny_bert, [(1, 0)] * 8).data
    with pytest.raises(UserError, match=r"data.relevance_columns grades .* SimCSE does not use\nfix: remove"):
        Trainer(run)
    with pytest.raises(UserError, match="GradedGCL needs a relevance in every row"):
        Trainer(run_on(tmp_path / "plain", tiny_bert, [(1, 0)] * 8, graded_columns=None)).fit()


def loss_of(rank, rows, relevance):
    """The loss of embeddings (B, V, D) and relevances (B, P), each process holding its share."""
    part = share(rank, len(rows))
    mine = rows[part].clone().requires_grad_()
    tokens = torch.zeros(*mine.shape[:2], 1, dtype=torch.int64)
    batch = Batch(tokens, torch.ones_like(tokens), num_positives=2, relevance=relevance[part])
    loss = Learner(torch.nn.Module(), GradedGCL()).loss(batch, Encoded(mine, mine), StepContext(encoder=None)).loss
    loss.backward()
    return loss.item(), mine.grad


def test_two_processes_are_one(two_processes):
    torch.manual_seed(1)
    rows, relevance = torch.randn(6, 3, 5, dtype=torch.float64), torch.rand(6, 2)
    loss, gradient = loss_of(0, rows, relevance)
    for rank, (got, local) in enumerate(two_processes(loss_of, rows, relevance)):
        assert got == pytest.approx(loss, rel=1e-12)
        assert torch.allclose(local / 2, gradient[rank * 3 : rank * 3 + 3], atol=1e-12)
