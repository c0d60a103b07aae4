"""What distillation kept: the table at the end of a run, and the teacher's share of its time."""

import json

import pytest
import torch

from cse.data.collators import TextViews
from cse.encoder.model import Encoder
from cse.interfaces import StepContext, Teacher
from cse.objectives.cosine_mse import CosineMSE
from cse.objectives.feature_distillation import FeatureDistillation
from cse.teachers.ensemble import Ensemble
from cse.teachers.frozen import FrozenEncoder
from cse.training.distilled import TABLE, Distilled, TeacherTime
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


def logged(run):
    """The records of a run, with those that depend on the machine."""
    return [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


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
    last = logged(run)[-1]
    assert 0 < last["teacher_share"] < 1
    assert "teacher_cosine" in last


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
    assert "teacher_share" not in logged(run)[-1]


class Slow(Teacher):
    """A teacher that takes a second of the clock."""

    def __init__(self, clock):
        super().__init__()
        self.clock = clock

    def embed(self, batch, ctx):
        self.clock[0] += 1.0
        return batch


def test_the_share_is_that_of_the_time_since_the_last_call(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("cse.training.distilled.time.perf_counter", lambda: clock[0])
    objective = FeatureDistillation(teacher=Slow(clock))
    times = TeacherTime([objective, objective])  # two sources of a mixture may have one objective
    assert objective.teacher.embed("batch", StepContext(encoder=None)) == "batch"
    assert times.share(4.0) == {"teacher_share": 0.25}
    assert times.share(4.0) == {"teacher_share": 0.0}
    assert TeacherTime([FeatureDistillation()]).share(1.0) == {}


class SlowPairs(Slow):
    """It takes four seconds for the scores of pairs, in which it gives no vectors."""

    def scores(self, batch, ctx):
        self.clock[0] += 4.0
        return batch


def test_time_in_which_one_asks_another_counts_once(monkeypatch):
    clock, ctx = [0.0], StepContext(encoder=None)
    monkeypatch.setattr("cse.training.distilled.time.perf_counter", lambda: clock[0])
    cosines, pairs, both = Slow(clock), SlowPairs(clock), Ensemble(teachers=[Slow(clock), Slow(clock)])
    both._alike = True  # as `setup` finds
    times = TeacherTime([CosineMSE(teacher=teacher) for teacher in (cosines, pairs, both)])
    batch = torch.ones(2, 2, 3)  # `Slow` gives it as the vectors
    for teacher, seconds in ((cosines, 1.0), (pairs, 4.0), (both, 2.0)):
        teacher.scores(batch, ctx)
        assert times.share(8.0) == {"teacher_share": seconds / 8}
