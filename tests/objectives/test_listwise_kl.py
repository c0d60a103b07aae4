"""ListwiseKL: sentence-transformers (oracles), pencil, limits."""

import pytest
import torch

from cse.objectives.listwise_kl import ListwiseKL
from tests.cases import cases, load
from tests.objectives.helpers import Case, agrees, refuses, run, vectors

KINDS = {"dot": "dot", "cos": "cosine"}


def contract_case(backbone):
    return Case({"compare": "cosine", "student_temperature": 0.5}, even=True)


@pytest.mark.parametrize("name", cases("distill", "kl_"))
def test_every_case(name):
    about, data = load("distill", name)
    rows, leaves = vectors(data)
    temperatures = {key: about[key] for key in ("student_temperature", "teacher_temperature")}
    objective = ListwiseKL(compare=KINDS[about["similarity"]], **temperatures)
    agrees(run(objective, rows, teacher=data["teacher"]), about, data, leaves)


def test_errors():
    for name in ("student_temperature", "teacher_temperature"):
        refuses(f"{name} is 0", ListwiseKL, **{name: 0})
    rows = torch.randn(3, 4, 5)
    refuses(r"ListwiseKL needs Batch\.teacher", run, ListwiseKL(), rows)
    refuses("a row has 3, and 2 scores", run, ListwiseKL(), rows, teacher=torch.zeros(3, 2))
    refuses("two or more texts", run, ListwiseKL(), rows[:, :2], teacher=torch.zeros(3, 1))
