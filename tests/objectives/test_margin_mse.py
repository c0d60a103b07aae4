"""MarginMSE: sentence-transformers (oracles), pencil, limits."""

import pytest
import torch

from cse.objectives.margin_mse import MarginMSE
from tests.cases import cases, load
from tests.objectives.helpers import Case, agrees, refuses, run, vectors

KINDS = {"dot": "dot", "cos": "cosine"}


def contract_case(backbone):
    return Case({"compare": "cosine"}, even=True)


@pytest.mark.parametrize("name", cases("distill", "marginmse_"))
def test_every_case(name):
    about, data = load("distill", name)
    rows, leaves = vectors(data)
    agrees(run(MarginMSE(compare=KINDS[about["similarity"]]), rows, teacher=data["teacher"]), about, data, leaves)


def test_errors():
    rows = torch.randn(3, 4, 5)
    for given, named in (
        ({}, r"MarginMSE needs Batch\.teacher"),
        ({"teacher": torch.zeros(3, 4)}, "3 scores of the positive .* or 2 margins; Batch.teacher has 4"),
    ):
        refuses(named, run, MarginMSE(), rows, **given)
    refuses("hard negatives", run, MarginMSE(), rows[:, :2], teacher=torch.zeros(3, 1))
