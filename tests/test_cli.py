"""The command line: what it refuses and how, what a kill and Ctrl-C leave, and that help is quick."""

import argparse
import ast
import inspect
import json
import re
import shutil
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from cse import cli, commands
from cse import recipe as recipes
from cse.commands import verbs
from tests.runs import assert_same, metrics, texts_recipe, weights

ROOT = Path(__file__).resolve().parent.parent
FILES = {path.stem.replace("_", "-") for path in (ROOT / "cse/commands").glob("[!_]*.py")}
COMMANDS = FILES - {"verbs"} | set(verbs.COMMANDS)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()} | {
        str(p.relative_to(folder)): b"" for p in folder.rglob("*") if p.is_dir()
    }


def test_a_folder_that_holds_a_run_is_not_overwritten(tiny_bert, whole, tmp_path, capsys):
    shutil.copytree(whole, tmp_path / "run")
    before = files(tmp_path / "run")
    assert cli.main(["train", texts_recipe(tmp_path, tiny_bert), "--run-dir", str(tmp_path / "run")]) == 2
    assert f"cse train --resume {tmp_path}/run" in capsys.readouterr().err
    assert files(tmp_path / "run") == before


@pytest.mark.parametrize(
    "arguments", [[], ["frobnicate"], ["encode", "x"], ["encode", "x", "y", "--out", "z", "--nope"]]
)
def test_wrong_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    what, fix = capsys.readouterr().err.splitlines()
    assert what.startswith("cse: ")
    assert re.fullmatch(r"fix: `cse[ a-z]* --help` shows the usage", fix)


def options(parser) -> set[str]:
    """Every long option of a parser and of the commands below it."""
    below = [a.choices.values() for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    own = {o for action in parser._actions for o in action.option_strings if o.startswith("--")}
    return own.union(*(options(sub) for subparsers in below for sub in subparsers))


def test_options_have_hyphens_and_the_old_underscores_still_work(tiny_bert, tmp_path):
    """The old spellings go in 0.2."""
    every = options(cli._parser(*COMMANDS))
    assert {"--run-dir", "--relative-margin", "--teacher-positive", "--no-data"} <= every
    assert not [option for option in every if "_" in option]
    run = tmp_path / "run"
    assert cli.main(["train", texts_recipe(tmp_path, tiny_bert), f"--run_dir={run}", "--trainer.max_steps=1"]) == 0
    assert (run / "best").is_dir()
    words = ["--run_dir", "a_b", "--run_dir=a_b", "--trainer.max_steps=1", "--objective.init_args.x_y=z_z", "a--b_c"]
    assert [cli._current_spelling(word) for word in words] == ["--run-dir", "a_b", "--run-dir=a_b", *words[3:]]
    assert [cli._current_spelling(word) for word in ("--licence", "--licence=mit")] == ["--license", "--license=mit"]


# What it does
def test_a_run_lies_where_it_says_and_reruns_from_its_own_recipe(tiny_bert, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    recipe = texts_recipe(tmp_path, tiny_bert)
    assert cli.main(["train", recipe]) == 0
    (folder,) = Path("runs/tiny").iterdir()
    assert folder.name.endswith("-s3")
    said = capsys.readouterr().out
    for word in (
        "seed 3",
        "48 sentences",
        "SimCSE(temperature=0.05",
        "(before training)",
        f"cse eval {folder}/best --tasks sts-mini    cse push {folder}/best you/name",
    ):
        assert word in said
    about = json.loads((folder / "env.json").read_text())
    assert about["recipe"] == "tiny"
    assert about["seed"] == 3
    assert cli.main(["train", str(folder / "recipe.yaml"), "--run-dir", "again"]) == 0
    assert metrics(Path("again")) == metrics(folder)
    assert weights(Path("again/best")) == weights(folder / "best")


def test_check_looks_at_every_recipe(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    names = [str(p.relative_to("recipes").with_suffix("")) for p in Path("recipes").rglob("[!_]*.yaml")]
    looked, one = [], recipes.load("simcse-unsup")
    monkeypatch.setattr(
        recipes, "load", lambda name, options: looked.append(name) or one
    )  # tests/test_recipes.py loads
    assert cli.main(["check"]) == 0
    assert sorted(line.split()[-1] for line in capsys.readouterr().out.splitlines()) == sorted(looked) == sorted(names)


# Killed and interrupted
@pytest.fixture(scope="module")
def whole(tiny_bert, tmp_path_factory):
    """The folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    assert cli.main(["train", texts_recipe(folder, tiny_bert), "--run-dir", str(folder / "run")]) == 0
    return folder / "run"


def assert_same_end(run: Path, whole: Path) -> None:
    assert_same(run, whole)
    done = [json.loads((r / "state" / "state.json").read_text())["progress"] for r in (run, whole)]
    for progress in done:
        del progress["seconds"], progress["log_bytes"]
    assert done[0] == done[1]


def test_ctrl_c_saves_and_says_how_to_go_on(tiny_bert, tmp_path, whole, capsys):
    recipe = texts_recipe(tmp_path, tiny_bert, step=3, marker=str(tmp_path / "struck"))
    run = tmp_path / "run"
    assert cli.main(["train", recipe, "--run-dir", str(run)]) == 130
    assert f"cse train --resume {run}" in capsys.readouterr().out
    assert cli.main(["train", "--resume", str(run)]) == 0
    assert_same_end(run, whole)


@pytest.mark.unix
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", pytest.param("SIGUSR1", marks=pytest.mark.slow)])
def test_the_end_of_a_job_saves_and_the_job_goes_on(tiny_bert, tmp_path, whole, capsys, request, name):
    """The same command with `--resume auto` begins the run, and resumes it."""
    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_DFL)  # under nohup SIGHUP is ignored, and a run leaves it so
    request.addfinalizer(lambda: signal.signal(number, before))
    marker = str(tmp_path / "struck")
    recipe = texts_recipe(tmp_path, tiny_bert, step=3, marker=marker, signal_name=name)
    job = ["train", recipe, "--run-dir", str(tmp_path / "run"), "--resume", "auto"]
    assert cli.main(job) == 128 + number
    assert json.loads((tmp_path / "run" / "state" / "state.json").read_text())["progress"]["step"] == 3
    assert cli.main([*job, "--trainer.batch_size=4"]) == 2
    assert "holds a run of another recipe" in (said := capsys.readouterr().err)
    assert "batch_size: 4" in said
    assert cli.main(job) == 0
    assert_same_end(tmp_path / "run", whole)
    assert cli.main(job) == 0  # a finished run is not trained again


def test_a_second_ctrl_c_stops_at_once(tiny_bert, tmp_path, whole):
    marker = str(tmp_path / "struck")
    recipe = texts_recipe(tmp_path, tiny_bert, step=3, marker=marker, times=2)
    run = tmp_path / "run"
    assert cli.main(["train", recipe, "--run-dir", str(run)]) == 130
    assert json.loads((run / "state" / "state.json").read_text())["progress"]["step"] == 2  # the last evaluation's
    assert cli.main(["train", "--resume", str(run)]) == 0
    assert_same_end(run, whole)


# Help
def test_help_is_quick_and_imports_nothing_heavy():
    """Of modules that do not come with Python, it imports ours alone, and few of those."""
    code = "import sys; known = set(sys.modules); import cse.cli\ntry: cse.cli.main(['--help'])\n"
    code += "finally: print(sorted(set(sys.modules) - known), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert set(done.stdout.split()) >= COMMANDS
    imported = eval(done.stderr)
    assert {name.partition(".")[0] for name in imported} - sys.stdlib_module_names == {"cse"}
    ours = [name for name in imported if name.startswith("cse") and not name.startswith("cse.commands")]
    assert len(ours) <= 12, ours


SOURCES = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "cse/commands").glob("*.py"))
VERBS = set(re.findall(r'"(cse\.[\w.]+:\w+)"', SOURCES))


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_options_are_the_signature_of_the_function(verb):
    """It is read from the source, and has the parameters and defaults of the function that is imported."""
    module, _, name = verb.partition(":")
    function = getattr(import_module(module), name)
    found = {p.name: (p.default, p.required) for p in commands.parameters(verb)}
    own = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_POSITIONAL]
    assert found == {p.name: (None if p.default is p.empty else p.default, p.default is p.empty) for p in own}
    assert all(p.text for p in commands.parameters(verb))


def test_every_error_names_a_fix():
    """Each `UserError(...)` has a line that begins with `fix: `, or takes its text from a function."""
    raised, without = 0, []
    for path in (ROOT / "cse").rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "UserError":
                raised += 1
                text = ast.get_source_segment(source, node) or ""
                if (
                    r"\nfix: " not in text
                    and "{error}" not in text  # which has one
                    and '"fix: ' not in text
                    and isinstance(node.args[0], ast.Constant | ast.JoinedStr)
                ):
                    without.append(f"{path.name}:{node.lineno}")
    assert raised > 50
    assert without == []
