"""A teacher's numbers: from columns of the data to the loss, on one process and on two."""

import pytest
import torch

from cse.batch import Batch
from cse.data.datasets import Triplets
from cse.errors import UserError
from cse.interfaces import StepContext
from cse.objectives.margin_mse import MarginMSE
from cse.training.learner import Encoded, Learner
from cse.training.trainer import Trainer
from tests.runs import make_run, metrics, write_texts
from tests.training.test_distributed import share


def run_on(folder, backbone, scores, objective=None, columns=("t", "u"), blank=None):
    """A run on triplets with the teacher's scores of the positive and of the negative."""
    run = make_run(folder, backbone, objective=objective or MarginMSE(), max_steps=1)
    texts = write_texts(folder, 3 * len(scores)).read_text().splitlines()
    rows = [
        dict(zip(("a", "p", "n", "m", "t", "u"), (*texts[3 * i : 3 * i + 3], None, *pair), strict=True))
        for i, pair in enumerate(scores)
    ]
    if blank is not None:
        rows[blank]["m"] = "another text"
    names = ["a", "p", "n"] if blank is None else ["a", "p", "n", "m"]
    run.data = Triplets(rows, columns=names, teacher_columns=columns)
    return run


def test_the_numbers_reach_the_loss(tiny_bert, tmp_path):
    losses = []
    for name, scores in {"a": [(1, 0)] * 8, "b": [(9, 8)] * 8, "c": [(1, -1)] * 8}.items():
        run = run_on(tmp_path / name, tiny_bert, scores)
        Trainer(run).fit()
        losses.append(metrics(run.folder)[-1]["loss"])
    assert losses[0] == losses[1] != losses[2]  # a constant that is added to a row's scores changes nothing


def test_what_does_not_fit_is_refused(tiny_bert, tmp_path):
    plain = make_run(tmp_path / "simcse", tiny_bert)
    plain.data = run_on(tmp_path / "simcse", tiny_bert, [(1, 0)] * 8).data
    with pytest.raises(UserError, match=r"data\.teacher_columns gives .* SimCSE does not use\nfix: remove"):
        Trainer(plain)
    with pytest.raises(UserError, match=r"MarginMSE needs a teacher in every row.*\nfix: .*teacher_columns=\[NAME\]"):
        Trainer(run_on(tmp_path / "plain", tiny_bert, [(1, 0)] * 8, columns=None)).fit()
    with pytest.raises(UserError, match="unequal numbers of texts"):
        Trainer(run_on(tmp_path / "ragged", tiny_bert, [(1, 0)] * 8, blank=2)).fit()


def loss_of(rank, rows, scores):
    """The loss of embeddings (B, V, D) and scores (B, C), each process holding its share."""
    part = share(rank, len(rows))
    mine = rows[part].clone().requires_grad_()
    tokens = torch.zeros(*mine.shape[:2], 1, dtype=torch.int64)
    batch = Batch(tokens, torch.ones_like(tokens), num_positives=1, teacher=scores[part])
    loss = Learner(torch.nn.Module(), MarginMSE()).loss(batch, Encoded(mine, mine), StepContext(encoder=None)).loss
    loss.backward()
    return loss.item(), mine.grad


def test_two_processes_are_one(two_processes):
    torch.manual_seed(1)
    rows, scores = torch.randn(6, 3, 5, dtype=torch.float64), torch.randn(6, 2, dtype=torch.float64)
    loss, gradient = loss_of(0, rows, scores)
    for rank, (got, local) in enumerate(two_processes(loss_of, rows, scores)):
        assert got == pytest.approx(loss, rel=1e-12)
        assert torch.allclose(local / 2, gradient[rank * 3 : rank * 3 + 3], atol=1e-12)
