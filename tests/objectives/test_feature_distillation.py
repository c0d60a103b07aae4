"""FeatureDistillation: sentence-transformers (oracles), pencil, projections, a teacher that is asked."""

from functools import partial

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from cse import Encoder, FeatureDistillation, FrozenEncoder, FrozenViewEncoder, Trainer
from tests.models import save_tiny
from tests.objectives.helpers import Case, run, sized
from tests.runs import make_run, metrics


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


def test_an_exported_projection_puts_the_student_into_the_space_of_its_teacher(tiny_bert, tmp_path):
    """It is trained, and saved as the last layer, also for sentence-transformers."""
    teacher = Encoder(save_tiny("bert", tiny_bert, tmp_path / "wide", hidden_size=32), pooler="mean")
    teacher.save(tmp_path / "teacher")
    objective = FeatureDistillation(
        teacher=FrozenEncoder(source=str(tmp_path / "teacher")), unit=True, export_projection=True
    )
    made = make_run(
        tmp_path,
        tiny_bert,
        encoder=Encoder(tiny_bert, pooler="mean"),
        objective=objective,
        max_steps=60,
        learning_rate=1e-2,
    )
    first, last = [line["teacher_cosine"] for line in metrics(Trainer(made).fit().folder) if "loss" in line][::29]
    assert last > first
    texts = ["the cat sat", "a dog ran on"]
    student = Encoder.load(str(made.folder / "last"))
    vectors = student.encode(texts)
    assert vectors.shape == (2, 32)
    cosine = (vectors * teacher.encode(texts)).sum(1) / np.linalg.norm(vectors, axis=1)
    assert cosine.min() > 0.5
    np.testing.assert_allclose(SentenceTransformer(str(made.folder / "last")).encode(texts), vectors, atol=1e-5)


def test_a_projection_keeps_cosines_before_training():
    objective = built(4, dim=9)
    x = torch.randn(5, 4)
    assert torch.allclose(objective.project(x) @ objective.project(x).T, x @ x.T, atol=1e-5)
    assert isinstance(built(4, dim=4).project, torch.nn.Identity)
