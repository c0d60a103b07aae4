"""MarginMSE: sentence-transformers (oracles), pencil, limits."""

import pytest

from cse.objectives.margin_mse import MarginMSE
from tests.cases import cases, load
from tests.objectives.helpers import Case, agrees, run, vectors

KINDS = {"dot": "dot", "cos": "cosine"}


def contract_case(backbone):
    return Case({"compare": "cosine"}, even=True)


@pytest.mark.parametrize("name", cases("distill", "marginmse_"))
def test_every_case(name):
    about, data = load("distill", name)
    rows, leaves = vectors(data)
    agrees(run(MarginMSE(compare=KINDS[about["similarity"]]), rows, teacher=data["teacher"]), about, data, leaves)
