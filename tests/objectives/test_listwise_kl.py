"""ListwiseKL: sentence-transformers (oracles), pencil, limits."""

import pytest

from cse.objectives.listwise_kl import ListwiseKL
from tests.cases import cases, load
from tests.objectives.helpers import Case, agrees, run, vectors

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
