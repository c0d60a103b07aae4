"""Trackers: they get the settings, the curves and the final table; one that does not exist is refused at once."""

import sys
from types import SimpleNamespace

import pytest
import yaml
from accelerate.utils import LoggerType

from cse.errors import UserError
from cse.training.trainer import Trainer
from tests.runs import Dies, make_run, metrics


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("tensorboard", r"pip install 'cse-embeddings\[trackers\]'"),
        ("trackio", r"pip install 'cse-embeddings\[trackers\]'"),
        ("wandb", "pip install wandb$"),
    ],
)
def test_a_tracker_that_is_not_installed_is_refused_with_its_pip_line(tiny_bert, tmp_path, monkeypatch, name, line):
    monkeypatch.setattr("cse.training.hardware.get_available_trackers", list)
    run = make_run(tmp_path, tiny_bert, trackers=[name])
    with pytest.raises(UserError, match=rf"trainer.trackers has '{name}'(.|\n)*{line}"):
        Trainer(run)
    assert not run.folder.exists()


def test_an_unknown_tracker_is_refused_with_those_that_exist(tiny_bert, tmp_path):
    run = make_run(tmp_path, tiny_bert, trackers=["tensorbord"])
    with pytest.raises(UserError, match=r"'tensorbord'(.|\n)*tensorboard"):
        Trainer(run)


def test_tensorboard_receives_settings_curves_and_the_table(tiny_bert, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = make_run(tmp_path, tiny_bert, trackers=["tensorboard"])
    Trainer(run).fit()
    folder = run.folder / "trackers" / "cse"
    events = EventAccumulator(str(folder)).Reload()
    want = [(line["step"], line["dev"]) for line in metrics(run.folder)]
    got = [(event.step, event.value) for event in events.Scalars("dev")]
    assert got == [(step, pytest.approx(value, rel=1e-6)) for step, value in want]
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4, 5, 6]
    (path,) = folder.glob("*/hparams.yml")
    settings = yaml.safe_load(path.read_text())
    assert settings["trainer.learning_rate"] == run.settings.learning_rate
    assert settings["objective"] == run.objective.describe()
    assert settings["seed"] == 7
    assert "result/text_summary" in events.Tags()["tensors"]


class Service:
    """Stands for wandb or trackio: remembers what it is told."""

    Table = SimpleNamespace

    def __init__(self) -> None:
        self.opened, self.settings, self.logged, self.finished = [], {}, [], 0
        self.config = SimpleNamespace(update=lambda values, **_: self.settings.update(values))

    def init(self, **options):
        self.opened.append(options)
        return self

    def log(self, values, step=None):
        self.logged.append((step, values))

    def finish(self):
        self.finished += 1


@pytest.fixture(params=["wandb", "trackio"])
def service(request, monkeypatch):
    """One of the two services, as if it were installed."""
    made = Service()
    monkeypatch.setitem(sys.modules, request.param, made)
    monkeypatch.setattr("accelerate.tracking._available_trackers", [LoggerType(request.param)])
    made.name = request.param
    return made


def test_a_service_receives_settings_curves_and_the_table(tiny_bert, tmp_path, service):
    run = make_run(tmp_path, tiny_bert, trackers=[service.name])
    Trainer(run).fit()
    assert service.opened[0]["project"] == "cse"
    assert service.opened[0]["name"].startswith("test-run")
    assert service.settings["trainer.batch_size"] == 8
    assert service.settings["objective"] == run.objective.describe()
    steps = [step for step, values in service.logged if "loss" in values]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert [values["dev"] for _, values in service.logged if "dev" in values] == [
        line["dev"] for line in metrics(run.folder)
    ]
    last_step, last = service.logged[-1]
    assert last_step == 6
    table = last["result"]
    if service.name == "wandb":
        assert table.columns == ["", "step", "dev"]
        assert table.data == [
            ["before training", 0, run.progress.first],
            ["best", run.progress.best_step, run.progress.best],
        ]
    else:
        assert table.splitlines()[3] == f"| best | {run.progress.best_step} | {run.progress.best:.2f} |"
    assert service.finished == 1


def test_a_resumed_run_continues_its_curves(tiny_bert, tmp_path, service):
    run = make_run(tmp_path, tiny_bert, trackers=[service.name])
    run.callbacks = [Dies(3)]
    with pytest.raises(RuntimeError):
        Trainer(run).fit()
    Trainer(make_run(tmp_path, tiny_bert, trackers=[service.name])).fit(resume=True)
    first, second = service.opened
    assert first == second
    assert first["resume"] == "allow"
