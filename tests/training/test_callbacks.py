"""What a run says of itself: before it trains, of the time of dev scoring, and to trackers."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from accelerate.utils import LoggerType

from cse import MaskedLM, Objective, RefreshNegatives, SimCSE, TopK, Trainer, WeightedSum
from cse.training.callbacks import SCORING_SHARE, Console, header, spacing
from tests.refusals import refuses
from tests.runs import Dies, make_run, metrics

ROOT = Path(__file__).resolve().parents[2]


class Nested(Objective):
    """A wrapper with required arguments, as a stranger would write it: it describes nothing itself."""

    def __init__(self, *, inner: Objective, dimensions: list[int], note: str | None = None) -> None:
        super().__init__()
        self.inner, self.dimensions, self.note = inner, dimensions, note
        self.cacheable = inner.cacheable

    def forward(self, views, batch, ctx):
        return self.inner(views, batch, ctx)


def test_a_sum_describes_its_terms_and_weights():
    said = WeightedSum(terms=[SimCSE(temperature=0.07), MaskedLM()], weights=[1.0, 0.25]).describe()
    assert said.startswith("WeightedSum(terms=[SimCSE(temperature=0.07")
    assert "MaskedLM(" in said
    assert "weights=[1.0, 0.25]" in said
    assert "cacheable" not in said


def test_the_header_shows_the_description(tiny_bert, tmp_path):
    run = make_run(tmp_path, tiny_bert, triplets=True, objective=Nested(inner=SimCSE(), dimensions=[16]))
    run.source = RefreshNegatives(miner=TopK(), k=2)
    lines = dict(header(run))
    assert lines["objective"] == f"Nested(inner={SimCSE().describe()}, dimensions=[16])"
    assert lines["negatives"].startswith("TopK, 2 more per row")
    assert "7 in-batch and 24 hard negatives" in lines["batch"]  # 8 rows, each with 1 of its own and 2 mined ones
    assert "sampler" not in lines
    run = make_run(tmp_path, tiny_bert, triplets=True)
    assert "negatives" not in dict(header(run))
    assert "7 in-batch and 8 hard negatives" in dict(header(run))["batch"]


def test_the_trainer_imports_without_the_modules_that_windows_lacks():
    """`resource` and `fcntl` exist on Unix only. Libraries have substitutes of their own: our imports are denied."""
    code = """
import builtins
real = builtins.__import__
def deny(name, globals=None, *rest, **named):
    if name in {"resource", "fcntl"} and str((globals or {}).get("__name__")).startswith("cse"):
        raise ImportError(name)
    return real(name, globals, *rest, **named)
builtins.__import__ = deny
from cse import Trainer
import cse.training.start
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# The time of dev scoring
def test_a_long_run_is_told_at_its_first_evaluation(tiny_bert, tmp_path, capsys):
    """2,000 steps of 0.5 s, and 9 evaluations of 20 s: 180 of 1,180 s; 5 of them are 100 of 1,100 s."""
    run, console = make_run(tmp_path, tiny_bert, eval_every=250), Console()
    run.max_steps, run.progress.step = 2000, 250
    for _ in range(2):
        console.on_eval(run, {"step": 250, "eval_seconds": 20.0, "steps_per_s": 2.0})
    said = [line for line in capsys.readouterr().out.splitlines() if "scoring" in line]
    assert said == ["scoring    20.0 s each time, about 15% of this run; --trainer.eval_every=500 keeps it within 10%"]


def test_the_interval_is_the_shortest_that_suffices():
    def share(every, each, training, steps):
        scoring = each * (1 + -(-steps // every))
        return scoring / (scoring + training)

    for each, training, steps in ((1.0, 100.0, 1000), (2.5, 333.0, 70), (0.3, 1000.0, 5000), (10.0, 180.0, 20)):
        every = int(spacing(each, training, steps).partition("eval_every=")[2].partition(" ")[0])
        assert share(every, each, training, steps) <= SCORING_SHARE < share(every - 1, each, training, steps)
    assert spacing(1.0, 100.0, 1000).startswith("--trainer.eval_every=100 ")
    assert spacing(10.0, 179.0, 20) == "an evaluator with fewer texts takes less time"


# Trackers
@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("tensorboard", r"pip install 'cse-embeddings\[trackers\]'"),
        ("trackio", r"pip install 'cse-embeddings\[trackers\]'"),
        ("wandb", "pip install wandb$"),
        ("tensorbord", "tensorboard"),
    ],
)
def test_a_tracker_that_does_not_exist_is_refused_with_its_fix(tiny_bert, tmp_path, monkeypatch, name, line):
    monkeypatch.setattr("cse.training.hardware.get_available_trackers", list)
    run = make_run(tmp_path, tiny_bert, trackers=[name])
    refuses(rf"trainer.trackers has '{name}'(.|\n)*{line}", Trainer, run)
    assert not run.folder.exists()


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
