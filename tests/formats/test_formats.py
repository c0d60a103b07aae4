"""What an earlier version wrote is read: checkpoints, a run that goes on, recipes, results, vectors, mined rows."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from cse import Encoder, Triplets, cli, open_vectors
from cse.evaluation import results
from cse.recipe import load
from cse.training.checkpoint import load_progress
from tests.formats.make import TEXTS

VERSIONS = sorted(path.name for path in Path(__file__).parent.iterdir() if path.name[0].isdigit())


@pytest.fixture(params=VERSIONS)
def place(request, tmp_path, monkeypatch):
    """A copy of what a version wrote, as the working folder."""
    shutil.copytree(Path(__file__).parent / request.param, tmp_path / "then")
    monkeypatch.chdir(tmp_path / "then")
    return tmp_path / "then"


def test_a_checkpoint_gives_the_vectors_that_it_gave(place):
    np.testing.assert_allclose(Encoder.load("run/last").encode(TEXTS), np.load("vectors.npy"), atol=1e-6)


def test_a_run_is_read_and_its_recipe_trains_again(place, capsys):
    assert load("run/recipe.yaml").config.trainer.max_steps == 4
    assert load_progress(Path("run", "state")).finished
    assert cli.main(["train", "--resume", "run"]) == 0
    assert cli.main(["train", "run/recipe.yaml", "--run-dir", "again", "--trainer.max_steps=2"]) == 0
    assert "step     2/2" in capsys.readouterr().out


def test_results_vectors_and_mined_rows_are_read(place, capsys):
    found = results.read(Path("run/results.json"))
    assert found["average"]["value"] == pytest.approx(found["tasks"]["sts-mini-test"]["value"])
    assert cli.main(["eval", "report", "."]) == 0
    assert "sts-mini-test" in Path("report.md").read_text()
    assert np.asarray(open_vectors("shards")).shape == (32, 16)
    assert len(Triplets("mined.jsonl", columns=["anchor", "positive", "negative_1"])) == 32
