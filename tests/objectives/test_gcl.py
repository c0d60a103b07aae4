"""GCL: direct loops (oracles), pencil, limits."""

import math

import pytest
import torch

from cse.errors import UserError
from cse.objectives.gcl import GCL, GradedGCL
from cse.objectives.simcse import SimCSE
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


def test_graded_by_pencil():
    # Two orthogonal items, t = 1; item 0 has documents equal to it (relevance 3) and orthogonal (1).
    e, a, b = math.e, torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    rows = torch.stack([torch.stack([a, a, b]), torch.stack([b, b, a])])
    relevance = torch.tensor([[3.0, 1.0], [0.0, 0.0]])
    output = run(GradedGCL(temperature=1.0), rows, 2, relevance=relevance)
    # The anchor has cosine 1 with its first document and the last of the other row, and 0 with the two others.
    total = math.log(2 * e + 2)
    assert output.loss.item() == pytest.approx(0.75 * (total - 1) + 0.25 * total, rel=1e-6)
    assert output.metrics["skipped"] == 1  # the row without relevance


def test_a_document_without_relevance_is_a_hard_negative():
    rows = torch.randn(5, 3, 8)
    got = run(GradedGCL(), rows, 2, relevance=torch.tensor([[2.0, 0.0]]).expand(5, 2)).loss
    assert got.item() == pytest.approx(run(SimCSE(), rows, 1).loss.item(), rel=1e-6)


def test_equal_weights_are_infonce_in_both_directions():
    rows = torch.randn(5, 2, 8)
    want = (run(SimCSE(), rows).loss + run(SimCSE(), rows.flip(1)).loss) / 2
    for fields in ({}, {"weight": torch.full((5,), 0.3)}):
        assert run(GCL(), rows, **fields).loss.item() == pytest.approx(want.item(), rel=1e-6)
    assert run(GCL(symmetric=False), rows).loss.item() == pytest.approx(run(SimCSE(), rows).loss.item(), rel=1e-6)
    graded = run(GradedGCL(), rows, relevance=torch.rand(5, 1) + 0.1).loss
    assert graded.item() == pytest.approx(run(SimCSE(), rows).loss.item(), rel=1e-6)


def test_errors():
    for objective in (GCL, GradedGCL):
        with pytest.raises(UserError, match="temperature"):
            objective(temperature=0.0)
    with pytest.raises(ValueError, match=r"GradedGCL needs Batch\.relevance"):
        run(GradedGCL(), torch.randn(3, 2, 4))
