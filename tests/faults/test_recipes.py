"""Recipes of a stranger, and options that cannot be meant: one error, no code, and nothing written."""

import json
import shutil
import sys

import pytest
import yaml

from cse import UserError, cli, recipe
from cse.recipe.schema import COMPONENTS, Schema, declared

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


def walk(value, path=(), owner="recipe"):
    """Every place of a resolved recipe, with the class or the mapping that has it."""
    if isinstance(value, dict):
        owner, path = value.get("class_path", owner), (*path, "init_args") if "class_path" in value else path
        for key, each in (value.get("init_args", {}) if "class_path" in value else value).items():
            yield (*path, key), f"{owner}.{key}"
            yield from walk(each, (*path, key), f"{owner}.{key}")
    elif isinstance(value, list):
        for i, each in enumerate(value):
            yield (*path, i), f"{owner}[]"
            yield from walk(each, (*path, i), f"{owner}[]")


def with_value(content, path, value):
    """A copy of a recipe with another value at a place."""
    key, *deeper = path
    inner = with_value(content[key], deeper, value) if deeper else value
    return [*content[:key], inner, *content[key + 1 :]] if isinstance(key, int) else {**content, key: inner}


SEVERAL = ["--evaluator=cse.evaluation.Several", "--evaluator.primary=a"]
SEVERAL += ["--evaluator.evaluators={a: cse.evaluation.STSEvaluator, b: {class_path: cse.evaluation.STSEvaluator}}"]
SOURCES = ["objective=cse.objectives.cosent.CoSENT", "sampler=cse.data.NoDuplicates"]


def test_no_spelling_imports_the_module_of_a_stranger(stranger):
    """In any part and option of any class that a recipe names, sources, evaluators and teachers included."""
    loaded = [recipe.load(name) for name in recipe.names()]
    loaded += [
        recipe.load("simcse-unsup", SEVERAL),
        recipe.load("mixture", [f"--data.sources.nli.{option}" for option in SOURCES]),
    ]
    schema, known, seen, refused = Schema({"cse"}), declared(), set(), set()
    for content in [yaml.safe_load(each.text) for each in loaded]:
        content.pop("expect", None)
        for path, name in walk(content):
            if name in seen:
                continue
            seen.add(name)
            for spelling, said in SPELLINGS.items():
                try:
                    schema.options(known, with_value(content, path, said), "", "")
                except UserError as error:  # some are texts, which may be anything
                    if f"names {MODULE}.X, and reading" in str(error):
                        refused.add((name, spelling))
                assert MODULE not in sys.modules, (name, spelling)
    parts = {name for name, _ in refused}
    assert {f"recipe.{part}" for part in COMPONENTS} <= parts
    assert {"cse.encoder.Encoder.adapter", "recipe.callbacks"} <= parts
    assert any(name.startswith("cse.evaluation.Several.evaluators.") for name in parts)
    assert any(name.endswith(".nli.objective") for name in parts)
    assert any(".teacher" in name for name in parts)
    assert len(seen) > 300
    assert len(parts) > 40


def within(path, value):
    for key in reversed(path):
        value = {key: value}
    return value


@pytest.mark.parametrize("command", [["check", "--no-data"], ["train", "--run-dir=new"]], ids=["check", "train"])
@pytest.mark.parametrize("said", ["/etc/passwd", f"{{{PART}}}", "part.yaml", f"{PART}\n"])
def test_a_part_is_a_mapping_or_a_dotted_name(command, said, stranger, refused):
    error = refused(command[0], own({"objective": said}), *command[1:])
    assert error.startswith(f"cse: recipe own.yaml: objective is {said!r}\nfix: write class_path and init_args")
    assert not (stranger / "new").exists()


QUOTED = {"trainer": {"batch_size": "64"}, "seed": "12", "objective": {"init_args": {"temperature": "0.1"}}}


@pytest.mark.parametrize("part", QUOTED)
def test_a_number_in_quotes_is_a_text(part, stranger, refused):
    named = {"trainer": "trainer.batch_size", "objective": "objective.temperature"}.get(part, part)
    assert refused("check", "--no-data", own({part: QUOTED[part]})).startswith(f"cse: recipe own.yaml: {named} is '")


@pytest.mark.parametrize("said", ["010", "1:30", "2026-01-02"])
def test_a_text_that_yaml_1_1_reads_as_a_number_or_a_date_is_a_text(said, stranger, refused):
    with open(own({}), "a") as file:
        file.write(f"data: {{init_args: {{column: {said}}}}}\nseed: {said}\n")
    assert f"seed is '{said}'" in refused("check", "--no-data", "own.yaml")
    assert cli.main(["check", "--no-data", "own.yaml", "--seed=1"]) == 0


@pytest.mark.parametrize("said", ["!!set {a}", "!!binary YQ==", "!!timestamp 2026-01-02", "!!python/name:os.system x"])
def test_yaml_has_no_objects(said, stranger, refused):
    with open(own({}), "a") as file:
        file.write(f"seed: {said}\n")
    assert "cannot be read: could not determine a constructor for the tag" in refused("check", "--no-data", "own.yaml")


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
    from cse.publish.card.metadata import citations

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
    "workers": ([*T, *DATA, "--trainer.workers=9999"], "trainer.workers is 9999\n", "give a number in [0, 128]"),
    "views": ([*T, *DATA, "--collator.views=100000"], "collator.views is 100000\n", "give a number in [1, 10"),
    "recipe": (["train", "nonesuch"], "recipe 'nonesuch' is unknown\n", "`cse recipe list` shows all"),
    "--objective=cse.encoder.Encoder": ([*T, *DATA], f", {A}Objective\n", "name a subclass of Objective"),
    "--objective=cse.cli.main": ([*T, *DATA], f", {A}Objective\n", "name a subclass of Objective"),
    "--objective=cse.data.Texts": ([*T, *DATA], f", {A}Objective\n", "name a subclass of Objective"),
    "--evaluator=cse.objectives.simcse.SimCSE": ([*T, *DATA], f", {A}Evaluator\n", "name a subclass of Evaluator"),
    "--sampler=cse.data.Texts": ([*T, *DATA], f", {A}Sampler\n", "name a subclass of Sampler"),
    "--objective=cse.objectives.nonesuch.X": ([*T, *DATA], ", which cannot be imported: No module named", "name a"),
    "--objective=Simcse": ([*T, *DATA], ", which is not the dotted name", "did you mean cse.objectives.simcse.SimCSE?"),
    "trackers": ([*T, *DATA, "--trainer.trackers=wandb"], "trainer.trackers is wandb\n", "give a list: "),
    "backbone": ([*T, *DATA, "--encoder.backbone=null"], "encoder.backbone is null\n", "give a folder, asset:NAME or"),
    "rate": ([*T, *DATA, "--trainer.learning_rate=nan"], "trainer.learning_rate is nan\n", "give a number"),
    "S1": (
        [*T, "--data.path=[texts.txt,t12.txt]"],
        "data.path is ['texts.txt', 't12.txt']\n",
        "give one file, a folder, or a pattern such as",
    ),
    "dash": (["data", "show", "-dash.txt"], "'-dash.txt' begins with a dash, as an option does\n", "write ./-dash.txt"),
    "dash, out": (["encode", "ck/last", "t12.txt", "--out", "-x.npy"], "'-x.npy' begins with a", "write --out=-x.npy"),
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
