"""What a run says of itself: its objective with all terms, and everything that cannot train, at once."""

import subprocess
import sys
from pathlib import Path

import torch

from cse.interfaces import Objective, RowSource
from cse.mining.miners import TopK
from cse.mining.refresh import RefreshNegatives
from cse.objectives.masked_lm import MaskedLM
from cse.objectives.simcse import SimCSE
from cse.objectives.weighted_sum import WeightedSum
from cse.training.callbacks import header
from cse.training.trainer import Trainer
from tests.runs import make_run, metrics, weights

ROOT = Path(__file__).resolve().parents[2]


class Nested(Objective):
    """A wrapper with required arguments, as a stranger would write it: it describes nothing itself."""

    def __init__(self, *, inner: Objective, dimensions: list[int], note: str | None = None) -> None:
        super().__init__()
        self.inner, self.dimensions, self.note = inner, dimensions, note
        self.cacheable = inner.cacheable

    def forward(self, views, batch, ctx):
        return self.inner(views, batch, ctx)


def test_an_objective_describes_its_settings():
    assert SimCSE(temperature=0.1).describe().startswith("SimCSE(temperature=0.1")


def test_a_sum_describes_its_terms_and_weights():
    said = WeightedSum(terms=[SimCSE(temperature=0.07), MaskedLM()], weights=[1.0, 0.25]).describe()
    assert said.startswith("WeightedSum(terms=[SimCSE(temperature=0.07")
    assert "MaskedLM(" in said
    assert "weights=[1.0, 0.25]" in said
    assert "cacheable" not in said


def test_a_wrapper_describes_the_objective_inside_it():
    inner = WeightedSum(terms=[SimCSE(), SimCSE(temperature=0.2)], weights=[2.0, 3.0])
    said = Nested(inner=inner, dimensions=[8, 16]).describe()
    assert said == f"Nested(inner={inner.describe()}, dimensions=[8, 16])"


def test_the_header_shows_the_description(tiny_bert, tmp_path):
    run = make_run(tmp_path, tiny_bert, triplets=True, objective=Nested(inner=SimCSE(), dimensions=[16]))
    run.source = RefreshNegatives(miner=TopK(), k=2)
    lines = dict(header(run))
    assert lines["objective"] == run.objective.describe()
    assert lines["negatives"].startswith("TopK, 2 more per row")
    assert "7 in-batch and 24 hard negatives" in lines["batch"]  # 8 rows, each with 1 of its own and 2 mined ones
    assert "sampler" not in lines
    run = make_run(tmp_path, tiny_bert, triplets=True)
    assert "negatives" not in dict(header(run))
    assert "7 in-batch and 8 hard negatives" in dict(header(run))["batch"]


# -- Row sources -----------------------------------------------------------------------------------------------------


class Turns(RowSource):
    """The rows of the data in stretches of `every` steps; `asked` has the steps at which the loop asked for them."""

    def __init__(self, every):
        self.every, self.asked, self.turned = every, [], 0

    def setup(self, data, steps_per_epoch):
        self.data, self.steps_per_epoch = data, steps_per_epoch

    def texts(self):
        return ["a text of the source"]

    def widest(self):
        return self.data

    def rows(self, step, encoder):
        self.asked.append(step)
        if step % self.every == 0:
            self.turned += 1
        return self.data, step - step % self.every + self.every

    def state(self):
        return {"turned": torch.tensor(self.turned)}

    def load_state(self, state):
        self.turned = int(state["turned"])

    def describe(self):
        return "rows in turns"


def test_the_loop_asks_a_source_when_its_rows_change_and_keeps_its_state(tiny_bert, tmp_path):
    plain = make_run(tmp_path / "plain", tiny_bert)
    Trainer(plain).fit()
    run = make_run(tmp_path / "source", tiny_bert)
    run.source = Turns(4)
    Trainer(run).fit()
    assert run.source.asked == [0, 4]
    assert run.source.steps_per_epoch == 48 // 8
    assert weights(run.folder / "last") == weights(plain.folder / "last")  # the same rows make the same run
    assert metrics(run.folder) == metrics(plain.folder)
    again = make_run(tmp_path / "source", tiny_bert)
    again.source = Turns(4)
    Trainer(again).fit(resume=True)
    assert again.source.turned == run.source.turned == 2
    assert again.source.asked == []  # the run was complete


# -- Windows ---------------------------------------------------------------------------------------------------------


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
