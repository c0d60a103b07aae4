"""Recipes of a stranger, and options that cannot be meant: one error, no code, and nothing written."""

import json
import shutil
import sys
from contextlib import suppress

import pytest
import yaml

from cse import cli, recipe
from cse.errors import UserError

MODULE = "unread_module"
PART = f"class_path: {MODULE}.X"
SPELLINGS = {  # the value of a part or an option that names the class of a stranger
    "a mapping": {"class_path": f"{MODULE}.X"},
    "a mapping with arguments": {"class_path": f"{MODULE}.X", "init_args": {"a": 1}},
    "a name": f"{MODULE}.X",
    "a text of a mapping": f"{{{PART}}}",
    "a text of lines": f"{PART}\ninit_args: {{}}\n",
    "json": json.dumps({"class_path": f"{MODULE}.X"}),
    "a list of mappings": [{"class_path": f"{MODULE}.X"}],
    "a text of a list": f"[{{{PART}}}]",
    "a file": "part.yaml",
    "a list of files": ["part.yaml"],
    "a path": "./part.yaml",
    "a file of another suffix": "part.txt",
    "a mapping by name": {"a": {"class_path": f"{MODULE}.X"}},
    "a name within a mapping": {"init_args": {"a": f"{{{PART}}}"}},
}


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """A working folder with a module that must not be imported, and files that name its class."""
    (tmp_path / f"{MODULE}.py").write_text(
        "open('ran', 'w').close()\nfrom cse.objectives.simcse import SimCSE\n\n\nclass X(SimCSE):\n    pass\n"
    )
    for name in ("part.yaml", "part.txt"):
        (tmp_path / name).write_text(f"{PART}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert MODULE not in sys.modules
    assert not (tmp_path / "ran").exists()


def own(content) -> str:
    """A recipe file that extends one of the package."""
    extends = {"extends": str(recipe.folder() / "simcse-unsup.yaml")}
    with open("own.yaml", "w") as file:
        yaml.safe_dump(extends | content, file, sort_keys=False)
    return "own.yaml"


def places() -> list[tuple[str, ...]]:
    """Every part, and every option of the components of simcse-unsup."""
    found: list[tuple[str, ...]] = []

    def walk(value, path) -> None:
        found.append(path)
        if isinstance(value, dict):
            inner = value.get("init_args", value if path == ("trainer",) else {}) or {}
            before = (*path, "init_args") if "class_path" in value else path
            for key, each in inner.items():
                walk(each, (*before, key))

    for part, value in yaml.safe_load(recipe.load("simcse-unsup").text).items():
        walk(value, (part,))
    return found


PLACES = places()


def within(path, value):
    for key in reversed(path):
        value = {key: value}
    return value


@pytest.mark.parametrize("path", PLACES, ids=[".".join(path).replace(".init_args", "") for path in PLACES])
def test_no_spelling_imports_the_module_of_a_stranger(path, stranger):
    whole = len(path) == 1 or path[-1] in {"adapter", "augmentations"}  # elsewhere, one spelling of each kind
    for said in SPELLINGS.values() if whole else (SPELLINGS["a mapping"], SPELLINGS["a text of a mapping"]):
        with suppress(UserError):  # some are texts, which may be anything
            recipe.load(own(within(path, said)))
        assert MODULE not in sys.modules, said


def test_the_places_are_all_parts_and_their_options():
    names = {path[0] for path in PLACES}
    assert names >= {"data", "collator", "encoder", "objective", "evaluator", "sampler", "negatives", "callbacks"}
    assert ("encoder", "init_args", "adapter", "init_args", "targets") in PLACES
    assert len(PLACES) > 80


CONFIG = {"a file": "part.yaml", "/etc/passwd": "/etc/passwd", "a mapping": {"objective": {"class_path": "a.B"}}}


@pytest.mark.parametrize("said", CONFIG)
def test_a_recipe_has_no_config(said, stranger, refused):
    error = refused("check", "--no-data", own({"config": CONFIG[said]}))
    assert error.startswith("cse: recipe own.yaml: option config is unknown\n")


@pytest.mark.parametrize("command", [["check", "--no-data"], ["train", "--run-dir=new"]], ids=["check", "train"])
@pytest.mark.parametrize("said", ["/etc/passwd", f"{{{PART}}}", "part.yaml", f"{PART}\n"])
def test_a_part_is_a_mapping_or_a_dotted_name(command, said, stranger, refused):
    error = refused(command[0], own({"objective": said}), *command[1:])
    assert error.startswith(f"cse: recipe own.yaml: objective is {said!r}\nfix: write class_path and init_args")
    assert not (stranger / "new").exists()


NESTED = {  # an option whose value is a part, and what its file would say
    "encoder.init_args.adapter": "class_path: cse.encoder.Lora\n",
    "encoder.init_args.dropout": "attention: 0.1\n",
    "collator.init_args.augmentations": "class_path: cse.augment.WordRepetition\n",
    "callbacks": "class_path: cse.training.run.Callback\n",
    "trainer": "max_steps: 2\n",
}
WRITTEN = {"a file": "part.yaml", "files": ["part.yaml"], "a path": "./part.yaml", "any file": "secret"}
WRITTEN |= {"text": "{{{}}}", "a line": "{}"}


@pytest.mark.parametrize("said", WRITTEN)
@pytest.mark.parametrize("option", NESTED)
def test_no_option_is_read_from_a_file_or_a_text(option, said, stranger, refused):
    (stranger / "part.yaml").write_text(NESTED[option])
    (stranger / "secret").write_text("root:x:0:0\n")
    value = WRITTEN[said]
    value = value.format(NESTED[option].strip()) if said in {"text", "a line"} else value
    error = refused("check", "--no-data", own(within(option.split("."), value)))
    assert "root:x" not in error
    assert "0.1" not in error.replace(repr(value), "")
    named = "names part.yaml, and reading the recipe would run"  # a dotted name, and nothing else
    assert error.removeprefix("cse: recipe own.yaml: ").startswith((option.replace(".init_args", ""), named))


@pytest.mark.parametrize("option", ["objective", "encoder.adapter", "collator.augmentations", "evaluator"])
def test_no_option_of_the_command_line_is_read_from_a_file(option, stranger, refused):
    (stranger / "part.yaml").write_text("class_path: cse.objectives.simcse.SimCSE\n")
    assert option in refused("check", "--no-data", "simcse-unsup", f"--{option}=part.yaml")


def test_data_that_look_like_a_module_are_not_imported(stranger, refused):
    refused("check", "simcse-unsup", "--data", f"{MODULE}.txt")


def test_a_run_of_a_stranger_is_read_as_a_recipe_is(own_run, stranger, refused, monkeypatch):
    monkeypatch.chdir(own_run)
    shutil.rmtree(own_run / "ck" / "state")  # which holds the recipe, too; a run is begun without it
    path = own_run / "ck" / "recipe.yaml"
    content = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(content | {"objective": f"{{{PART}}}"}))
    assert "objective is " in refused("train", "--resume", "ck")
    path.write_text(yaml.safe_dump(content | {"callbacks": [f"{{{PART}}}"]}))
    assert refused("train", "--resume", "ck")
    path.write_text(yaml.safe_dump(content | {"objective": {"class_path": f"{MODULE}.X"}}))
    assert f"names {MODULE}.X, and reading the recipe" in refused("train", "--resume", "ck")


def test_the_card_of_a_run_imports_nothing_that_the_run_names(stranger):
    from cse.publish.card.citation import citations

    assert citations({"objective": {"class_path": f"{MODULE}.X"}}) == []
    assert len(citations({"objective": {"class_path": "cse.objectives.simcse.SimCSE"}})) == 1


def test_what_a_stranger_may_name_is_checked_where_it_is_imported(stranger, capsys):
    """A module that is trusted is imported, by the same spelling that is refused without it."""
    file = own({"objective": f"{MODULE}.X"})
    assert cli.main(["check", "--no-data", file]) == 2
    assert not (stranger / "ran").exists()
    assert cli.main(["check", "--no-data", file, f"--trusted-modules={MODULE}"]) == 0
    assert (stranger / "ran").exists()
    (stranger / "ran").unlink()
    del sys.modules[MODULE]


T = ["train", "simcse-unsup", "--encoder", "asset:mini", "--trainer.max_steps=2", "--trainer.batch_size=8"]
T += ["--trainer.device=cpu", "--run-dir", "new"]
DATA = ["--data", "texts.txt"]
A = "which is not a subclass of "
OPTIONS = {  # the row of the hunt -> a command, what it says first, and its fix
    "H2": ([*T, *DATA, "--processes=100000"], "--processes is 100000, and this machine has ", "give --processes="),
    "batch of processes": (
        [*T, *DATA, "--processes", "2", "--trainer.batch_size=3"],
        "trainer.batch_size is 3, which cannot be divided into 1 accumulated parts on 2 processes\n",
        "set trainer.batch_size to a multiple of 2",
    ),
    "epochs": ([*T, *DATA, "--trainer.epochs=1e308"], "trainer.epochs is 1e+308\n", "give a number in (0, 1000000]"),
    "views": (
        [*T, *DATA, "--collator.views=100000"],
        "collator.views is 100000\n",
        "give a number in [1, 10",
    ),
    "recipe": (["train", "nonesuch"], "recipe 'nonesuch' is unknown\n", "`cse recipe list` shows all"),
    "--objective=cse.encoder.Encoder": ([*T, *DATA], f", {A}Objective\n", "name a subclass of Objective"),
    "--objective=cse.cli.main": ([*T, *DATA], f", {A}Objective\n", "name a subclass of Objective"),
    "--objective=cse.data.Texts": ([*T, *DATA], f", {A}Objective\n", "name a subclass of Objective"),
    "--evaluator=cse.objectives.simcse.SimCSE": ([*T, *DATA], f", {A}Evaluator\n", "name a subclass of Evaluator"),
    "--sampler=cse.data.Texts": ([*T, *DATA], f", {A}Sampler\n", "name a subclass of Sampler"),
    "--objective=cse.objectives.nonesuch.X": ([*T, *DATA], ", which cannot be imported: No module named", "name a"),
    "--objective=Simcse": (
        [*T, *DATA],
        ", which is not the dotted name of a class\n",
        "did you mean cse.objectives.simcse.SimCSE?",
    ),
    "trackers": (
        [*T, *DATA, "--trainer.trackers=wandb"],
        "trainer.trackers is wandb, and must be a list\n",
        "--trainer.trackers=[wandb]",
    ),
    "backbone": ([*T, *DATA, "--encoder.backbone=null"], "encoder.backbone is null\n", "give a folder, asset:NAME or"),
    "rate": ([*T, *DATA, "--trainer.learning_rate=nan"], "trainer.learning_rate is nan\n", "give a finite number"),
    "S1": (
        [*T, "--data.path=[texts.txt,t12.txt]"],
        "data.path is ['texts.txt', 't12.txt']\n",
        "give one file, a folder, or a pattern such as",
    ),
    "dash": (["data", "show", "-dash.txt"], "'-dash.txt' begins with a dash, as an option does\n", "write ./-dash.txt"),
    "dash, out": (["encode", "ck/last", "t12.txt", "--out", "-x.npy"], "'-x.npy' begins with a dash", "write ./-x.npy"),
    "targets": (
        [*T, *DATA, "--encoder.adapter=cse.encoder.Lora", "--encoder.adapter.targets=[query,value,nonesuch]"],
        "encoder.adapter.targets is ['nonesuch'], and the backbone has no such layers\n",
        "name some of its linear layers: ",
    ),
}


@pytest.mark.parametrize("row", OPTIONS)
def test_an_option_that_cannot_be_meant(row, place, refused):
    line, said, fix = OPTIONS[row]
    if row.startswith("--"):  # the option itself
        part, _, name = row[2:].partition("=")
        line, said = [*line, row], f"{part} is {name}{said}"
    before = sorted(place.iterdir())
    error, _, mended = refused(*line).partition("\nfix: ")
    assert f"{error}\n".removeprefix("cse: ").removeprefix("recipe simcse-unsup: ").startswith(said)
    assert mended.startswith(fix)
    assert sorted(place.iterdir()) == before


def test_a_run_whose_recipe_is_empty_is_named(own_run, refused):
    shutil.rmtree(own_run / "ck" / "state")
    (own_run / "ck" / "recipe.yaml").write_text("")
    assert refused("train", "--resume", "ck").startswith("cse: recipe ck/recipe.yaml: it lacks ")


def test_a_warm_up_that_is_longer_than_the_run_is_said(place, capsys):
    assert cli.main([*T, *DATA, "--evaluator=null", "--trainer.warmup_steps=100"]) == 0
    assert "trainer.warmup_steps is 100 in a run of 2 steps: " in capsys.readouterr().out
