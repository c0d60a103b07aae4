"""DSE: the authors' program (oracles), pencil, limits."""

from functools import partial

import pytest
import torch

from cse import LogitDistillation
from tests.cases import cases, load, not_offered
from tests.objectives.helpers import Case, agrees, close, run, sized

TASKS = {"multiclass": "classes", "binary": "binary", "regression": "regression"}


def contract_case(backbone):
    return Case({}, texts=2, teacher=1)


built = partial(sized, LogitDistillation)


@pytest.mark.parametrize("name", cases("distill", "dse_"))
def test_every_case(name):
    about, data = load("distill", name)
    if len(about["fc_dims"] or [1, 1]) != 2:
        not_offered(f"{len(about['fc_dims'])} layers between vectors and logits")
    objective = built(
        about["D"],
        head=about["head"],
        task=TASKS[about["task"]],
        classes=data["teacher_logits"].shape[1],
        hidden=about["fc_dims"][0] if about["fc_dims"] else 512,
        share=about["distillation_coeff"],
    )
    linear = [layer for layer in objective.layers if hasattr(layer, "weight")]
    leaves = {"u": data["u"].requires_grad_(), "v": data["v"].requires_grad_()}
    for i, layer in enumerate(linear):
        layer.load_state_dict({"weight": data[f"fc{i}_w"], "bias": data[f"fc{i}_b"]})
        leaves |= {f"fc{i}_w": layer.weight, f"fc{i}_b": layer.bias}
    given = {"label": data["y"].flatten().long()} if about["task"] == "multiclass" else {"score": data["y"].flatten()}
    output = run(objective, torch.stack([leaves["u"], leaves["v"]], 1), teacher=data["teacher_logits"], **given)
    close(objective.logits(leaves["u"], leaves["v"]), data["logits"])
    both = {"task": "task_loss", "distilled": "distillation_loss"}
    agrees(output, about, data, leaves, **{name: both[name] for name in output.metrics.keys() & both})
    assert ("task" in output.metrics) == (about["distillation_coeff"] < 1)  # at share 1 it needs no label


def test_by_pencil():
    rows = torch.tensor([[[1.0, 2.0], [3.0, 1.0]], [[0.0, 1.0], [5.0, 2.0]]], requires_grad=True)  # u.v: 5 and 2
    loss = run(built(2, share=1.0), rows, teacher=torch.tensor([[4.0], [4.0]])).loss
    assert loss.item() == pytest.approx((1 + 4) / 2)
    two = torch.tensor([[1.0, 5.0], [-2.0, 2.0]])  # l_1 - l_0 is 4 in both rows
    assert run(built(2, share=1.0), rows, teacher=two).loss.item() == pytest.approx(2.5)
    half = run(built(2, share=0.5, task="regression"), rows, teacher=two, score=torch.tensor([1.0, 0.0])).loss
    assert half.item() == pytest.approx((16 + 4) / 4 + 2.5 / 2)


def test_what_it_needs_follows_from_the_share_and_the_task():
    assert LogitDistillation(share=1.0).requires == {"teacher"}
    assert LogitDistillation().requires == {"teacher", "score"}
    assert LogitDistillation(head="concat", task="classes", classes=3).requires == {"teacher", "label"}
