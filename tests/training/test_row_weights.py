"""Rows that count more than others: from a column of the data to the mean of the loss."""

import pytest
import torch

from cse.batch import Batch
from cse.data.datasets import Pairs, Texts, Triplets
from cse.errors import UserError
from cse.interfaces import StepContext
from cse.objectives.functional import contrast
from cse.objectives.simcse import SimCSE
from cse.training.learner import Encoded, Learner
from cse.training.trainer import Trainer
from tests.runs import make_run, metrics, write_texts
from tests.training.test_distributed import share

LOGITS = torch.tensor([[2.0, 0.0, 1.0], [0.5, 1.5, 0.0], [0.0, 1.0, 3.0]])


def rows_by_hand():
    return [float(-torch.log_softmax(LOGITS[i], 0)[i]) for i in range(3)]


def test_the_mean_by_pencil():
    a, b, c = rows_by_hand()
    result = contrast(LOGITS, torch.eye(3), weight=torch.tensor([1.0, 0.0, 3.0]))
    assert float(result.loss) == pytest.approx((a + 3 * c) / 4)
    assert result.rows.tolist() == pytest.approx([a, b, c])


def test_a_row_without_a_positive_has_no_weight_either():
    a, _, c = rows_by_hand()
    target = torch.diag(torch.tensor([1.0, 0.0, 1.0]))
    assert float(contrast(LOGITS, target, weight=torch.tensor([1.0, 5.0, 3.0])).loss) == pytest.approx((a + 3 * c) / 4)
    assert float(contrast(LOGITS, target, weight=torch.zeros(3)).loss) == 0


def test_weights_of_one_change_no_bit():
    torch.manual_seed(0)
    for size in (3, 64, 67):
        losses, gradients = [], []
        logits = torch.randn(size, size) * 20
        for weight in (None, torch.ones(size)):
            given = logits.clone().requires_grad_()
            loss = contrast(given, torch.eye(size), weight=weight).loss
            loss.backward()
            losses.append(loss)
            gradients.append(given.grad)
        assert torch.equal(*losses)
        assert torch.equal(*gradients)


def loss_of(rank, rows, weight):
    """SimCSE on embeddings (B, V, D) and weights (B,), each process holding its share."""
    part = share(rank, len(rows))
    mine = rows[part].clone().requires_grad_()
    tokens = torch.zeros(*mine.shape[:2], 1, dtype=torch.int64)
    batch = Batch(tokens, torch.ones_like(tokens), weight=weight[part])
    loss = Learner(torch.nn.Module(), SimCSE()).loss(batch, Encoded(mine, mine), StepContext(encoder=None)).loss
    loss.backward()
    return loss.item(), mine.grad


def test_two_processes_are_one(two_processes):
    torch.manual_seed(1)
    rows, weight = torch.randn(6, 3, 5, dtype=torch.float64), torch.tensor([1.0, 0.0, 2.5, 0.5, 4.0, 1.0])
    loss, gradient = loss_of(0, rows, weight)
    assert abs(loss - loss_of(0, rows, torch.ones(6))[0]) > 1e-3
    for rank, (got, local) in enumerate(two_processes(loss_of, rows, weight)):
        assert got == pytest.approx(loss, rel=1e-12)
        assert torch.allclose(local / 2, gradient[rank * 3 : rank * 3 + 3], atol=1e-12)


def table(folder, weights):
    lines = write_texts(folder, 2 * len(weights)).read_text().splitlines()
    rows = [f"{lines[2 * i]}\t{lines[2 * i + 1]}\t{w}\tc{i % 2}" for i, w in enumerate(weights)]
    (folder / "rows.tsv").write_text("\n".join(["a\tb\tw\tc", *rows]))
    return str(folder / "rows.tsv")


def test_a_column_of_weights_and_one_of_labels(tmp_path):
    path = table(tmp_path, [1, 0.5, "2e0"])
    data = Pairs(path, columns=("a", "b"), weight_column="w", label_column="c")
    assert [(e.weight, e.label) for e in data] == [(1.0, 0), (0.5, 1), (2.0, 0)]
    assert Pairs(path, columns=("a", "b"))[0].weight is None
    hashes = {
        Pairs(path, columns=("a", "b"), **{c: v}).hash
        for c, v in [("limit", None), ("weight_column", "w"), ("label_column", "c")]
    }
    assert len(hashes) == 3
    assert Texts(path, column="a", label_column="b")[2].label == 2
    assert Triplets(path, columns=("a", "b", "c"), weight_column="w")[1].weight == 0.5


@pytest.mark.parametrize("bad", ["-1", "inf", "nan", "much", ""])
def test_a_weight_that_is_none(tmp_path, bad):
    with pytest.raises(UserError, match=rf"data.weight_column: .*rows.tsv:3 has the weight '{bad}'"):
        Pairs(table(tmp_path, [1, bad]), columns=("a", "b"), weight_column="w")


def test_a_label_that_is_missing(tmp_path):
    with pytest.raises(UserError, match=r"data.label_column: .*rows.tsv:3 has no label"):
        Pairs(table(tmp_path, [1, ""]), columns=("a", "b"), label_column="w")


def test_a_null_negative_is_left_out_and_an_empty_one_is_a_space(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"a": "x", "p": "y", "n": null}\n{"a": "z", "p": "y", "n": ""}\n')
    data = Triplets(str(tmp_path / "rows.jsonl"), columns=("a", "p", "n"))
    assert [e.texts for e in data] == [("x", "y"), ("z", "y", " ")]
    assert data.ragged
    assert not data.weighted


class Unweighted(SimCSE):
    """An objective that ignores weights."""

    weighs_rows = False


def test_a_run_with_weights_and_an_objective_that_has_none(tiny_bert, tmp_path):
    runs = {}
    for name, weights in {"ones": [1] * 8, "plain": None, "skewed": [5, 1] * 4}.items():
        run = make_run(tmp_path / name, tiny_bert, max_steps=2)
        path = table(tmp_path / name, weights or [1] * 8)
        run.data = Pairs(path, columns=("a", "b"), weight_column="w" if weights else None)
        Trainer(run).fit()
        runs[name] = metrics(run.folder)[-1]["loss"]
    assert runs["ones"] == runs["plain"] != runs["skewed"]
    run = make_run(tmp_path / "other", tiny_bert, objective=Unweighted())
    run.data = Pairs(path, columns=("a", "b"), weight_column="w")
    with pytest.raises(UserError, match=r"data.weight_column gives rows weights, which objective Unweighted"):
        Trainer(run).fit()
