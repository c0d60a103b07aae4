"""GCL: direct loops (oracles), pencil, limits."""

import pytest
import torch

from cse.objectives.gcl import GCL, GradedGCL
from tests.cases import cases, load
from tests.objectives.helpers import agrees, run


@pytest.mark.parametrize("name", cases("gcl"))
def test_every_case(name):
    about, data = load("gcl", name)
    leaves = {side: data[side].requires_grad_() for side in ("anchor", "positive")}
    positive = leaves["positive"].view(about["B"], -1, leaves["positive"].shape[-1])
    rows = torch.cat([leaves["anchor"][:, None], positive], 1)
    if about["kind"] == "row_weights":
        objective = GCL(temperature=about["temperature"], symmetric=about["symmetric"])
        output = run(objective, rows, weight=data["weight"])
    else:
        objective = GradedGCL(temperature=about["temperature"])
        output = run(objective, rows, positive.shape[1], relevance=data["relevance"])
    agrees(output, about, data, leaves)
