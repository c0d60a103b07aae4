"""The time of dev scoring: logged with each evaluation, and said at the end where it was much of the run."""

import json
from types import SimpleNamespace

import pytest

from cse.interfaces import Callback
from cse.training.callbacks import SCORING_FROM, SCORING_SHARE, Console, spacing
from cse.training.trainer import Trainer
from tests.runs import Spread, make_run


class Slow(Spread):
    """A score that takes `seconds` of the time that `now` counts."""

    def __init__(self, now, seconds):
        self.now, self.seconds = now, seconds

    def __call__(self, encoder):
        self.now[0] += self.seconds
        return super().__call__(encoder)


class Second(Callback):
    """Lets a second pass in each step."""

    def __init__(self, now):
        self.now = now

    def on_step(self, run, metrics):
        self.now[0] += 1.0


@pytest.mark.parametrize(
    ("seconds", "least", "share"),
    [(0.125, 0.0, ""), (0.25, 0.0, "16%"), (0.25, SCORING_FROM, "")],
)
def test_the_time_of_scoring(tiny_bert, tmp_path, capsys, monkeypatch, seconds, least, share):
    """Three times 0.125 s beside 4 steps are 9%, and 0.25 s are 16%; a run of less than five minutes is short."""
    now = [100.0]
    monkeypatch.setattr("cse.training.callbacks.SCORING_FROM", least)
    monkeypatch.setattr("cse.training.trainer.time", SimpleNamespace(perf_counter=lambda: now[0]))
    run = make_run(tmp_path, tiny_bert, max_steps=4, eval_every=2)
    run.evaluator, run.callbacks = Slow(now, seconds), [Second(now), Console()]
    Trainer(run).fit()
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["eval_seconds"] for line in lines] == pytest.approx([seconds] * 3, abs=1e-3)
    said = [line for line in capsys.readouterr().out.splitlines() if "went into scoring; " in line]
    assert [share in line for line in said] == [True] * bool(share)


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
