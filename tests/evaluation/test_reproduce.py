import json
from types import SimpleNamespace

import pytest

from eval import reproduce
from tests.refusals import refuses


def test_summary_by_hand():
    found = reproduce.summarize({42: 1.0, 43: 2.0, 44: 6.0}, {"low": 2.5, "high": 3.5})
    assert found["mean"] == 3
    assert found["sd"] == pytest.approx(7**0.5)  # squares 4, 1, 9 over two
    assert (found["min"], found["max"], found["verdict"]) == (1, 6, reproduce.PASS)
    assert reproduce.summarize({42: 4.0}, {"low": 2.5, "high": 3.5})["verdict"] == reproduce.OUTSIDE
    assert reproduce.summarize({42: 4.0}, {})["verdict"] == reproduce.NO_BAND


@pytest.mark.parametrize(
    ("expect", "overrides", "tasks", "said"),
    [
        ({}, [], None, "recipe r declares none"),
        ({"low": 1.0}, [], None, "recipe r declares none"),
        ({"tasks": "a", "low": 1.0, "high": 2.0}, [], "b", "is of a, and b is scored"),
        ({"tasks": "a", "low": 1.0, "high": 2.0}, ["--encoder=x"], "a", "as it is, and --encoder=x is given"),
        ({"tasks": "a", "low": 1.0, "high": 2.0}, [], "a", ""),
        ({"tasks": "a", "low": 1.0, "high": 2.0}, [], None, ""),
    ],
)
def test_a_band_is_of_the_recipe_as_it_is_and_of_its_tasks(expect, overrides, tasks, said):
    band, why = reproduce.band_of(SimpleNamespace(name="r", expect=expect), overrides, tasks)
    assert said in why
    assert bool(band) == (not said) == (not why)
    shown = reproduce.lines(reproduce.summarize({42: 5.0}, band, why))[-1]
    assert shown == (f"no band   {why}" if why else "OUTSIDE   expected 1.0 to 2.0")


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Training and scoring replaced by files, and a record of what was done."""
    done = []

    def load(name, overrides):
        return SimpleNamespace(
            name=name, text=f"{name} {overrides}", expect={"tasks": "sts-mini-dev", "low": 50, "high": 60}
        )

    def train(command, check):
        assert not check
        resumed = "--resume" in command
        folder = tmp_path / command[command.index("--resume" if resumed else "--run-dir") + 1]
        done.append(("resume" if resumed else "train", folder.name))
        (folder / "best").mkdir(parents=True, exist_ok=True)
        (folder / "best" / "model.safetensors").write_text(folder.name)
        (folder / "state").mkdir(exist_ok=True)
        (folder / "state" / "finished").touch()
        (folder / "env.json").write_text('{"torch": "x"}')
        (folder / "recipe.yaml").write_text(f"r ['--seed={folder.name[-2:]}']")
        return SimpleNamespace(returncode=0)

    def score(checkpoint, out):
        done.append(("score", checkpoint.parent.name))
        model, score = {"name": "best", "sha256": reproduce.model_hash(checkpoint)}, float(checkpoint.parent.name[-2:])
        average = {"requested": "sts", "metric": "spearman", "value": score, "all": {"spearman": score}}
        content = {"schema": 2, "model": model, "tasks": {}, "missing": {}, "average": average}
        out.write_text(json.dumps(content))

    monkeypatch.setattr(reproduce, "load", load)
    monkeypatch.setattr(reproduce.subprocess, "run", train)
    monkeypatch.setattr(reproduce, "load_progress", lambda at: SimpleNamespace(finished=(at / "finished").exists()))
    return SimpleNamespace(done=done, runs=tmp_path, go=lambda n: reproduce.run("r", n, [], None, tmp_path, score))


def test_finished_seeds_are_not_run_again(world):
    assert world.go(2)["mean"] == 42.5
    assert world.done == [(what, f"reproduce-s{seed}") for seed in (42, 43) for what in ("train", "score")]
    world.done.clear()
    found = world.go(3)
    assert world.done == [("train", "reproduce-s44"), ("score", "reproduce-s44")]
    assert found["verdict"] == reproduce.OUTSIDE
    assert json.loads((world.runs / "r" / "reproduce.json").read_text())["environment"] == {"torch": "x"}


def test_an_interrupted_run_goes_on_and_other_weights_are_scored_again(world):
    world.go(1)
    (world.runs / "r" / "reproduce-s42" / "state" / "finished").unlink()
    world.done.clear()
    world.go(1)
    assert world.done == [("resume", "reproduce-s42")]  # the same weights came out, so the score stands
    (world.runs / "r" / "reproduce-s42" / "best" / "model.safetensors").write_text("other")
    world.go(1)
    assert world.done[1:] == [("score", "reproduce-s42")]


def test_other_settings_are_refused(world):
    world.go(1)
    (world.runs / "r" / "reproduce-s42" / "recipe.yaml").write_text("other")
    refuses("holds a run of other settings", world.go, 1)
