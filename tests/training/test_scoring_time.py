"""The time of dev scoring: logged with each evaluation, and said at the end where it was much of the run."""

from __future__ import annotations

import json
import time

import pytest

from cse.training.callbacks import Console
from cse.training.trainer import Trainer
from tests.runs import Spread, make_run


class Slow(Spread):
    def __init__(self, seconds):
        self.seconds = seconds

    def __call__(self, encoder):
        time.sleep(self.seconds)
        return super().__call__(encoder)


@pytest.mark.parametrize("seconds", [0.0, 0.5])
def test_the_time_of_scoring(tiny_bert, tmp_path, capsys, seconds):
    run = make_run(tmp_path, tiny_bert, max_steps=4, eval_every=2)
    run.evaluator, run.callbacks = Slow(seconds), [Console()]
    Trainer(run).fit()
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    spent = [line["eval_seconds"] for line in lines]
    assert len(spent) == 3
    assert min(spent) >= seconds
    said = "went into scoring; --trainer.eval_every=4 halves it" in capsys.readouterr().out
    assert said == (sum(spent) > 0.1 * run.progress.seconds)
    assert said or not seconds
