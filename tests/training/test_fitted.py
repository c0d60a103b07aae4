"""The steps between evaluations that a run chooses."""

import json

import pytest

from cse.data.datasets import Texts
from cse.evaluation.evaluators.held_out import HeldOut
from cse.training import fitted
from cse.training.callbacks import Console
from cse.training.run import Run
from cse.training.trainer import Trainer
from tests.runs import Dies, make_run


@pytest.mark.parametrize(
    ("letters", "every"),
    [(0, 10), (100, 10), (1000, 25), (10**6, 100)],
)
def test_evaluations_cost_a_tenth(tiny_bert, tmp_path, letters, every):
    """100 steps of 4 rows, each of 2 views of 20 letters, thrice: 48,000, beside which 5,333 may be encoded."""
    run = make_run(tmp_path, tiny_bert, batch_size=4, eval_every=None)
    run.data, run.max_steps = Texts([f"{i:020d}" for i in range(50)]), 100
    assert fitted.spacing(run, letters)[0] == every


def test_a_resumed_run_is_evaluated_at_the_same_steps(tiny_bert, tmp_path, capsys):
    """The interval is part of the state, since only the first evaluation tells what one costs."""

    def built(folder) -> Run:
        run = make_run(folder, tiny_bert, triplets=True, max_steps=20, eval_every=None, batch_size=8)
        run.evaluator = HeldOut(share=0.1)
        run.data = run.evaluator.take(run.data)
        return run

    steps = []
    for dies in ([], [Dies(9)]):
        run = built(tmp_path / str(len(dies)))
        run.callbacks = [Console(), *dies]
        try:
            Trainer(run).fit()
        except RuntimeError:
            run = built(tmp_path / "1")
            Trainer(run).fit(resume=True)
        steps.append([json.loads(line)["step"] for line in (run.folder / "metrics.jsonl").read_text().splitlines()])
    assert steps[0] == steps[1]
    assert steps[0][0] == 0
    assert len(steps[0]) > 2
    said = capsys.readouterr().out
    assert "scoring    every " in said
