"""A stranger's method: three files beside a copy of the project, and nothing else is edited."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

OBJECTIVE = '''"""Matryoshka representation learning (Kusupati et al., NeurIPS 2022, arXiv:2205.13147)."""

from __future__ import annotations

from cse.batch import Batch, LossOutput, Views
from cse.interfaces import Objective, StepContext
from cse.objectives.parts.wrapper import Wrapper


class Cascade(Wrapper):
    """The mean of another objective over vectors cut to their first d dimensions.

    Args:
        term: The objective.
        dimensions: The sizes d.
    """

    def __init__(self, *, term: Objective, dimensions: list[int]) -> None:
        super().__init__(term)
        self.term, self.dimensions = term, dimensions

    def forward(self, views: Views, batch: Batch, ctx: StepContext) -> LossOutput:
        """The mean over sizes."""
        parts = views.anchor, views.positive, views.negative, views.embedding
        losses = [self.term(Views(*(x[..., :d] for x in parts)), batch, ctx).loss for d in self.dimensions]
        return LossOutput(sum(losses) / len(losses))
'''

TEST = """import torch

from cse.objectives.cascade import Cascade
from cse.objectives.simcse import SimCSE
from tests.objectives.helpers import Case, run


def contract_case(backbone):
    return Case({"term": SimCSE(), "dimensions": [4, 16]})


def test_it_is_the_mean_over_sizes():
    rows = torch.randn(4, 3, 6)
    want = (run(SimCSE(), rows[..., :2]).loss + run(SimCSE(), rows).loss) / 2
    assert torch.allclose(run(Cascade(term=SimCSE(), dimensions=[2, 6]), rows).loss, want)
"""

RECIPE = """# Cascade: SimCSE at several sizes.
#
# paper      Kusupati et al., NeurIPS 2022 (arXiv:2205.13147)
# data       one text per row
# expected   not measured yet; Spearman x 100, aggregation "all", on sts-mini-dev
# cost       2 forward passes per row; minutes on 2 CPU cores
# choose     when vectors of several sizes are wanted.
# run        cse train cascade
extends: simcse-unsup.yaml
objective:
  class_path: cse.objectives.cascade.Cascade
  init_args:
    term:
      class_path: cse.objectives.simcse.SimCSE
    dimensions: [64, 576]
"""


GOOD = "ascade or no_file_is or no_recipe_is"
BAD = "(Untested or Undeclared or broken or CLAIF) and (missing_field or every_file or state_holds)"


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """A copy of the project with more methods: the outcome of each of their tests, and all that was printed.

    One method is whole, one has no test file, one has a test file without its arguments, and one cannot be imported.
    """
    project = tmp_path_factory.mktemp("project")
    for name in ("cse", "recipes", "tests"):
        shutil.copytree(ROOT / name, project / name)
    shutil.copy(ROOT / "pyproject.toml", project)
    for file, text in {
        "cse/objectives/cascade.py": OBJECTIVE,
        "tests/objectives/test_cascade.py": TEST,
        "recipes/cascade.yaml": RECIPE,
        "cse/objectives/untested.py": OBJECTIVE.replace("Cascade", "Untested"),
        "cse/objectives/undeclared.py": OBJECTIVE.replace("Cascade", "Undeclared"),
        "tests/objectives/test_undeclared.py": "",
        "cse/objectives/broken.py": "1 / 0\n",
    }.items():
        (project / file).write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", "-k", f"{GOOD} or ({BAD})"]
    named = ("test_contract", "test_contract_in_parts", "test_cascade")
    command += [*(f"tests/objectives/{name}.py" for name in named), "tests/test_recipes.py"]
    environment = os.environ | {"PYTHONPATH": str(project)}
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=600)
    lines = [line.split(" ", 2) for line in done.stdout.splitlines()]
    found = {line[1]: line[0] for line in lines if len(line) > 1 and line[0] in {"PASSED", "FAILED", "ERROR"}}
    return found, done.stdout + done.stderr


def test_a_wrapper_with_required_arguments_is_three_files(outcomes):
    found, printed = outcomes
    good = {name: outcome for name, outcome in found.items() if "ascade" in name or "_is_missed" in name}
    assert set(good.values()) == {"PASSED"}, printed
    assert len([name for name in good if "test_contract" in name and "[Cascade]" in name]) >= 10
    expected = ("two_processes_are_one[Cascade]", "inherits_the_flags_of_its_terms[Cascade]", "test_cascade.py::")
    for part in (*expected, "[cascade.yaml]", "no_file_is_missed", "no_recipe_is_missed"):
        assert any(part in name for name in good), part


def test_a_bad_method_fails_alone_and_says_what_is_missing(outcomes):
    found, printed = outcomes
    of = {name: {v for k, v in found.items() if f"[{name}]" in k} for name in ("Untested", "Undeclared", "CLAIF")}
    assert of == {"Untested": {"FAILED"}, "Undeclared": {"FAILED"}, "CLAIF": {"PASSED"}}, printed
    assert [v for k, v in found.items() if k.endswith("[cse.objectives.broken]")] == ["FAILED"], printed
    assert "write tests/objectives/test_untested.py" in printed
    assert "return Case({'term': ..., 'dimensions': ...})" in printed
