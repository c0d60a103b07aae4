"""DSE: the authors' program (oracles), pencil, limits."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from cse.errors import UserError
from cse.objectives.logit_distillation import LogitDistillation
from tests.objectives.helpers import Case, cases_named, close, load, run

TASKS = {"multiclass": "classes", "binary": "binary", "regression": "regression"}


def contract_case(backbone):
    return Case({}, texts=2, teacher=1)


def built(size, **arguments):
    objective = LogitDistillation(**arguments)
    objective.setup(SimpleNamespace(dim=size))
    return objective


@pytest.mark.parametrize("name", [n for n in cases_named("distill", "dse_") if "pooler" not in n])
def test_every_case(oracles, name):
    about, data = load(oracles, "distill", name)
    sizes = about["fc_dims"] or [512, 1]
    objective = built(
        about["D"],
        head=about["head"],
        task=TASKS[about["task"]],
        classes=data["teacher_logits"].shape[1],
        hidden=sizes[0],
        share=about["distillation_coeff"],
    )
    linear = [layer for layer in objective.layers if hasattr(layer, "weight")]
    for i, layer in enumerate(linear):
        layer.load_state_dict({"weight": data[f"fc{i}_w"], "bias": data[f"fc{i}_b"]})
    u, v = data["u"].requires_grad_(), data["v"].requires_grad_()
    given = {"label": data["y"].flatten().long()} if about["task"] == "multiclass" else {"score": data["y"].flatten()}
    output = run(objective, torch.stack([u, v], 1), teacher=data["teacher_logits"], **given)
    output.loss.backward()
    assert output.loss.item() == pytest.approx(about["loss"], rel=1e-5)
    assert output.metrics["task"].item() == pytest.approx(about["task_loss"], rel=1e-5)
    assert output.metrics["distilled"].item() == pytest.approx(about["distillation_loss"], rel=1e-5)
    close(objective.logits(u, v), data["logits"])
    close(u.grad, data["grad_u"])
    close(v.grad, data["grad_v"])
    for i, layer in enumerate(linear):
        close(layer.weight.grad, data[f"grad_fc{i}_w"])
        close(layer.bias.grad, data[f"grad_fc{i}_b"])


def test_by_pencil():
    rows = torch.tensor([[[1.0, 2.0], [3.0, 1.0]], [[0.0, 1.0], [5.0, 2.0]]], requires_grad=True)  # u.v: 5 and 2
    loss = run(built(2, share=1.0), rows, teacher=torch.tensor([[4.0], [4.0]])).loss
    assert loss.item() == pytest.approx((1 + 4) / 2)
    two = torch.tensor([[1.0, 5.0], [-2.0, 2.0]])  # l_1 - l_0 is 4 in both rows
    assert run(built(2, share=1.0), rows, teacher=two).loss.item() == pytest.approx(2.5)
    half = run(built(2, share=0.5, task="regression"), rows, teacher=two, score=torch.tensor([1.0, 0.0])).loss
    assert half.item() == pytest.approx((16 + 4) / 4 + 2.5 / 2)


def test_a_student_that_agrees_learns_nothing():
    rows = torch.randn(4, 2, 3, requires_grad=True)
    loss = run(built(3, share=1.0), rows, teacher=(rows[:, 0] * rows[:, 1]).sum(1, keepdim=True).detach()).loss
    loss.backward()
    assert loss.item() == 0
    assert rows.grad.abs().max() == 0


def test_what_it_needs_follows_from_the_share_and_the_task():
    assert LogitDistillation(share=1.0).requires == {"teacher"}
    assert LogitDistillation().requires == {"teacher", "score"}
    assert LogitDistillation(head="concat", task="classes", classes=3).requires == {"teacher", "label"}


def test_errors():
    for arguments, named in (
        ({"share": 1.5}, "share is 1.5"),
        ({"classes": 2}, "classes is 2, but a dot product is one logit"),
        ({"head": "concat", "classes": 3}, "task is binary"),
        ({"head": "concat", "task": "classes"}, "classes 1"),
        ({"hidden": 0}, "hidden is 0"),
    ):
        with pytest.raises(UserError, match=named):
            LogitDistillation(**arguments)
    rows = torch.randn(3, 2, 4)
    with pytest.raises(ValueError, match=r"LogitDistillation needs Batch\.teacher"):
        run(built(4, share=1.0), rows)
    with pytest.raises(ValueError, match=r"has 1 logits; Batch\.teacher has 3 numbers"):
        run(built(4, share=1.0), rows, teacher=torch.zeros(3, 3))
    objective = built(4, head="concat", task="classes", classes=2)
    with pytest.raises(ValueError, match="more labels"):
        run(objective, rows, teacher=torch.zeros(3, 2), label=torch.tensor([0, 1, 2]))
