"""Recipes from elsewhere: bounded, of the right shape, and without code of modules that nobody trusts."""

import sys
import time

import pytest

import cse
from cse import cli, recipe
from cse.recipe.files import MAX_VALUES
from tests.refusals import refuses

LEVELS = [f"{name}: &{name} [{', '.join([f'*{below}'] * 9)}]" for below, name in ("ab", "bc", "cd", "de", "ef", "fg")]
BOMB = "\n".join(["a: &a [x, x, x, x, x, x, x, x, x]", *LEVELS])
BAD = {  # content -> what the error says
    "extends: own.yaml": "extends in a circle",
    "extends: [1, 2]": "extends [1, 2]",
    "extends: absent.yaml": "does not exist",
    "- a\n- b": "is not a mapping",
    "5": "is not a mapping",
    "a: [": "cannot be read",
    "a: &a\n  b: *a": "anchors",
    "objective: &o {class_path: cse.objectives.simcse.SimCSE, init_args: {x: *o}}": "anchors",
    BOMB: f"{MAX_VALUES:,} values",
    "a: " + "[" * 10_000 + "]" * 10_000: "cannot be read",
    "trainer: null": "trainer is None",
    "trainer: 5": "trainer is 5",
    "trainer: [1]": "trainer is [1]",
    "expect: 5": "expect is 5",
    "expect: {low: abc}": "expect.low is 'abc'",
    "expect: {high: .nan}": "expect.high is nan",
    "for: 5": "for is 5",
    "for: {causal: 5}": "for: causal is 5",
    "for: {sparse: {}}": "own.yaml: the section 'sparse' in `for` is unknown",
    "objects: 5": "objects is 5",
    "data: 5": "data is 5",
    "data: {init_args: true}": "data.init_args is true",
    "encoder: {init_args: [a]}": "encoder.init_args is ['a']",
    "encoder: [a]": "encoder is ['a']",
    "extends: BASE\noptimiser: adam": "option optimiser is unknown",
    "extends: BASE\ncallbacks: 5": "callbacks",
    "extends: BASE\nseed: .nan": "seed",
    "extends: BASE\ntrainer: {learning_rate: .nan}": "trainer.learning_rate is nan",
    "extends: BASE\ntrainer: {early_stopping: 0}": "trainer.early_stopping is 0",
    "extends: BASE\ntrainer: {early_stopping: -3}": "trainer.early_stopping is -3",
    "extends: BASE\ntrainer: {trackers: [nonsense]}": "'nonsense'",
}


@pytest.mark.parametrize("content", BAD, ids=[" ".join(content.split())[:60] for content in BAD])
def test_it_is_refused(content, tmp_path, capsys):
    (tmp_path / "own.yaml").write_text(content.replace("BASE", str(recipe.folder() / "simcse-unsup.yaml")))
    began = time.process_time()
    assert cli.main(["check", "--no-data", str(tmp_path / "own.yaml")]) == 2
    assert time.process_time() - began < 60  # all values of the bomb would take hours
    lines = capsys.readouterr().err.splitlines()
    assert BAD[content] in lines[0]
    assert lines[0].startswith("cse: ")
    assert lines[-1].startswith("fix: ")
    assert len(lines) <= 5


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A recipe that names a class of a module of the user."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_losses.py").write_text(
        "from cse.objectives.simcse import SimCSE\n\n\nclass Own(SimCSE):\n    pass\n"
    )
    path = tmp_path / "own.yaml"
    path.write_text(f"extends: {recipe.folder() / 'simcse-unsup.yaml'}\nobjective: {{class_path: own_losses.Own}}")
    yield str(path)
    sys.modules.pop("own_losses", None)


@pytest.mark.parametrize(
    "options",
    [["--trusted-modules=own_losses"], ["--trusted-modules", "json,own_losses"], ["--objective=own_losses.Own"]],
)
def test_what_the_user_names_is_trusted(own, options):
    assert recipe.load(own, options).config.objective.class_path == "own_losses.Own"


def test_the_environment_names_trusted_modules(own, monkeypatch):
    refuses("own_losses", recipe.load, own)
    assert "own_losses" not in sys.modules
    monkeypatch.setenv("CSE_TRUSTED_MODULES", "other, own_losses")
    assert recipe.load(own).config.objective.class_path == "own_losses.Own"


def test_a_module_with_the_beginning_of_a_trusted_name_is_not_trusted(own, tmp_path):
    (tmp_path / "own.py").touch()
    refuses("own_losses", recipe.load, own, ["--trusted-modules=own"])


@pytest.mark.parametrize("option", ["--trusted-modules", "--trusted-modules="])
def test_the_option_needs_a_value(own, option):
    refuses("--trusted-modules needs a value", recipe.load, own, [option])


def test_the_parsers_own_option_is_not_offered(own):
    refuses("option --config is unknown", recipe.load, own, [f"--config={own}"])


def test_a_dict_that_extends_a_file_is_checked_as_the_file_is(own):
    def chosen(content, *options):
        return recipe.load({"extends": own, **content}, options).config.objective.class_path

    refuses(r"own.yaml: names own_losses.Own.*", chosen, {"seed": 3})
    assert "own_losses" not in sys.modules
    refuses(r"own.yaml: names own_losses.Own.*", cse.train, {"extends": own})
    assert "own_losses" not in sys.modules
    assert chosen({"seed": 3}, "--trusted-modules=own_losses") == "own_losses.Own"
    assert chosen({"objective": {"class_path": "own_losses.Own"}}) == "own_losses.Own"  # the user wrote it
    assert chosen({"objective": "cse.objectives.dcl.DCL"}) == "cse.objectives.dcl.DCL"  # nothing of the module is left
    loaded = recipe.load({"extends": "simcse-unsup", "seed": 3})
    assert (loaded.config.seed, loaded.own) == (3, None)
