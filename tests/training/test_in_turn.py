"""`cse train A --then B`: each stage is the run that it would be alone, killed and resumed wherever it was."""

import os
from pathlib import Path

import pytest

from cse import Callback, cli, train
from tests.runs import MASKED, assert_same, write_recipe, write_texts


class Dies(Callback):
    """Raises after the step of the stage that the environment names, `2:3`, as a kill would come."""

    def on_step(self, run, metrics):
        if os.environ.get("DIES") == f"{run.folder.name[0]}:{run.progress.step}":
            raise RuntimeError("killed")


@pytest.fixture
def recipes(tiny_bert, tmp_path):
    """A recipe of masked language modeling, and one of contrast that begins with another backbone."""
    data, made = {"path": str(write_texts(tmp_path))}, []
    objective = {"class_path": "cse.objectives.masked_lm.MaskedLM"}
    for name, parts in (("masked", {"objective": objective, "collator": MASKED, "evaluator": None}), ("pairs", {})):
        (tmp_path / name).mkdir()
        parts["callbacks"] = [{"class_path": "tests.training.test_in_turn.Dies"}]
        trainer = {"max_steps": 4, "initial_weights": "ignore"}
        backbone = tiny_bert if name == "masked" else "asset:mini"
        path = Path(write_recipe(tmp_path / name, "Texts", data, {"backbone": backbone}, trainer=trainer, **parts))
        made.append(str(path.rename(tmp_path / f"{name}.yaml")))
    return made


def test_stages_are_the_runs_of_their_recipes_and_resume_wherever_they_stopped(recipes, tmp_path, monkeypatch):
    first, second = recipes
    alone = train(first, run_dir=tmp_path / "alone" / "1")
    after = train(second, encoder=alone.best, run_dir=tmp_path / "alone" / "2", overrides=["--seed=9"])
    command = ["train", first, "--run-dir", str(tmp_path / "run"), "--resume", "auto", "--then", second, "--seed=9"]
    for place in ("1:3", "2:3"):  # between two checkpoints
        monkeypatch.setenv("DIES", place)
        with pytest.raises(RuntimeError, match="killed"):
            cli.main(command)
    monkeypatch.delenv("DIES")
    assert cli.main(command) == 0
    for name, run in (("1-masked", alone), ("2-pairs", after)):
        assert_same(tmp_path / "run" / name, run.folder)
    assert "run/1-masked/best" in (tmp_path / "run" / "2-pairs" / "recipe.yaml").read_text()


def test_other_places_that_cannot_hold_stages(recipes, tmp_path, capsys, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("seed: 1")
    assert cli.main(["train", recipes[0], "--run-dir", str(tmp_path / "run"), "--then", recipes[1]]) == 2
    assert "is a run, and stages are runs in a folder" in capsys.readouterr().err
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert cli.main(["train", recipes[0], "--then", recipes[1]]) == 2
    assert "--then starts the processes of each stage by itself" in capsys.readouterr().err
