"""What distillation kept: the table at the end of a run."""

import json

import pytest

from cse.data.views.texts import TextViews
from cse.encoder.model import Encoder
from cse.objectives.feature_distillation import FeatureDistillation
from cse.teachers.frozen import FrozenEncoder
from cse.training.distilled import TABLE, Distilled
from cse.training.trainer import Trainer
from tests.runs import Spread, make_run, metrics


@pytest.fixture
def teacher(tiny_bert, tmp_path):
    Encoder(tiny_bert, pooler="mean").save(tmp_path / "teacher")
    return str(tmp_path / "teacher")


def distilling(folder, teacher, *, unit=False, **trainer):
    """A run that teaches the first layer of a teacher."""
    return make_run(
        folder,
        teacher,
        encoder=Encoder(teacher, layers=1),
        collator=TextViews(max_length=12, views=1),
        objective=FeatureDistillation(teacher=FrozenEncoder(source=teacher), unit=unit),
        **trainer,
    )


def test_a_run_ends_with_teacher_and_student(teacher, tmp_path, capsys):
    run = distilling(tmp_path / "run", teacher)
    run.callbacks = [Distilled()]
    Trainer(run).fit()
    found = json.loads((run.folder / TABLE).read_text())
    assert (found["teacher"]["layers"], found["student"]["layers"]) == (2, 1)
    places = (teacher, str(run.folder / "best"))
    scores = [Spread()(Encoder.load(place))["spread"] for place in places]
    assert [found[side]["dev"] for side in ("teacher", "student")] == pytest.approx(scores, rel=1e-6)
    assert found["kept"] == pytest.approx(scores[1] / scores[0], rel=1e-6)
    weights = [
        sum(p.numel() for p in Encoder.load(place).parameters()) for place in (teacher, str(run.folder / "best"))
    ]
    assert found["smaller"] == pytest.approx(weights[0] / weights[1])
    out = capsys.readouterr().out
    assert f"{found['smaller']:.2f} times smaller, {found['faster']:.2f} times faster" in out
    assert "teacher_cosine" in metrics(run.folder)[-1]


def test_the_student_moves_to_the_teacher(teacher, tmp_path):
    run = distilling(tmp_path / "run", teacher, unit=True, max_steps=20, eval_every=5)
    Trainer(run).fit()
    seen = [row["loss"] for row in metrics(run.folder) if "loss" in row]
    assert seen[-1] < seen[0]


def test_other_runs_have_no_such_table(tiny_bert, tmp_path, capsys):
    run = make_run(tmp_path / "run", tiny_bert, max_steps=1)
    run.callbacks = [Distilled()]
    Trainer(run).fit()
    assert not (run.folder / TABLE).exists()
