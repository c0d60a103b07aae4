"""FeatureDistillation: sentence-transformers (oracles), pencil, projections, a teacher that is asked."""

from functools import partial

import pytest
import torch

from cse import FeatureDistillation, FrozenViewEncoder
from tests.objectives.helpers import Case, run, sized


def contract_case(backbone):
    return Case({"teacher": FrozenViewEncoder(source=backbone)})


built = partial(sized, FeatureDistillation)


def test_by_pencil():
    rows = torch.tensor([[[3.0, 4.0]]])
    assert run(built(2), rows, positives=0, teacher=torch.tensor([[1.0, 4.0]])).loss.item() == 2
    unit = run(built(2, unit=True), rows, positives=0, teacher=torch.tensor([[0.6, 0.8]]))
    assert unit.loss.item() == pytest.approx(0, abs=1e-12)
    longer = run(built(2, unit=True), rows, positives=0, teacher=torch.tensor([[6.0, 8.0]]))
    assert longer.loss.item() == pytest.approx(0, abs=1e-12)
    assert unit.metrics["teacher_cosine"].item() == pytest.approx(1)


def test_repeated_views_of_one_text_have_its_vector():
    rows, vectors = torch.randn(3, 2, 4), torch.randn(3, 4)
    got = run(built(4), rows, teacher=vectors, text_id=torch.tensor([[0, 0], [1, 1], [2, 2]])).loss
    want = run(built(4), rows, teacher=torch.cat([vectors, vectors], 1)).loss
    assert got.item() == pytest.approx(want.item(), rel=1e-6)


def test_a_projection_keeps_cosines_before_training():
    objective = built(4, dim=9)
    x = torch.randn(5, 4)
    assert torch.allclose(objective.project(x) @ objective.project(x).T, x @ x.T, atol=1e-5)
    assert isinstance(built(4, dim=4).project, torch.nn.Identity)
