"""Every recipe that is shipped, found on the disk; and how recipes are merged, overridden and built."""

import re
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from cse import Masked, MaskedLM, SimCSE, Texts, TextViews, UserError, cli
from cse import recipe as recipes
from cse.commands import recipe as recipe_command
from cse.evaluation.evaluators import sts_rows
from cse.recipe.files import merge
from tests.refusals import refuses
from tests.runs import write_texts

FOLDER = Path(__file__).resolve().parent.parent / "recipes"
FILES = sorted(p for p in FOLDER.rglob("*.yaml") if not p.name.startswith("_"))
HEADER = ("paper", "data", "expected", "cost", "choose", "run")
every_recipe = pytest.mark.parametrize("path", FILES, ids=[str(p.relative_to(FOLDER)) for p in FILES])

# The others are slow tests, where what is tested depends little on the recipe.
some_recipes = pytest.mark.parametrize(
    "path",
    [path if i % 8 == 0 else pytest.param(path, marks=pytest.mark.slow) for i, path in enumerate(FILES)],
    ids=[str(p.relative_to(FOLDER)) for p in FILES],
)


def test_every_recipe_has_a_name():
    assert recipes.folder() == FOLDER
    assert recipes.names() == sorted(str(p.relative_to(FOLDER).with_suffix("")) for p in FILES) != []


@some_recipes
def test_its_resolved_text_parses_to_the_same(path, tmp_path):
    recipe = load(str(path))
    (tmp_path / "resolved.yaml").write_text(recipe.text)
    again = recipes.load(str(tmp_path / "resolved.yaml"))
    assert again.text == recipe.text
    assert again.expect == recipe.expect


@every_recipe
def test_it_parses_to_what_it_gives(path):
    recipe = load(str(path))
    assert recipes.find(recipe_name(path)).resolve() == path
    given = recipes.read(path)
    given.pop("expect", None)
    sections = given.pop("for", {})
    for name in (given["data"]["init_args"].get("path"), given["encoder"]["init_args"]["backbone"]):
        given = merge(given, sections.get(name, {}))
    assert "for" not in yaml.safe_load(recipe.text)
    assert within(given, yaml.safe_load(recipe.text)) == []


def within(given, resolved, place="") -> list[str]:
    """Places where the resolved recipe has another value than the recipe gave."""
    if isinstance(given, dict) and isinstance(resolved, dict):
        return [x for k in given for x in within(given[k], resolved.get(k, "missing"), f"{place}.{k}")]
    if isinstance(given, list) and isinstance(resolved, list) and len(given) == len(resolved):
        return [x for i, item in enumerate(given) for x in within(item, resolved[i], f"{place}[{i}]")]
    return [] if given == resolved else [f"{place}: {given} became {resolved}"]


load = cache(recipes.load)


def recipe_name(path: Path) -> str:
    return str(path.relative_to(FOLDER).with_suffix(""))


def faults(path: Path, name: str) -> list[str]:
    """What a recipe's header lacks."""
    said = recipes.header(path)
    found = [f"a line `{field}`" for field in HEADER if field not in said]
    if not re.match(r"\d+ forward pass(es)? per row", said.get("cost", "")):
        found.append("a cost that begins with `N forward passes per row`")
    if not re.fullmatch(r"when [^.]+(\.\d[^.]*)*\.", said.get("choose", "")):
        found.append("one sentence `choose     when ....`")
    if f"cse train {name}" not in said.get("run", ""):
        found.append("a command that names the recipe")
    return found + ([] if said["title"].endswith(".") else ["a title that is a sentence"])


@every_recipe
def test_it_opens_with_what_a_reader_needs(path):
    """Its first lines are comments that say paper, expected score, cost and how to run it."""
    missing = faults(path, recipe_name(path))
    assert not missing, f"{path}: its header lacks {', '.join(missing)}; cse/objectives/README.md has an example"


def repositories(value, key="") -> list[str]:
    """The repositories of the Hub that a resolved recipe names, and those of its dev tasks, in its order."""
    if isinstance(value, dict):
        return [one for name, inner in value.items() if name != "class_path" for one in repositories(inner, name)]
    if isinstance(value, list):
        return [one for inner in value for one in repositories(inner, key)]
    if key == "tasks":
        return [str(task.hub["path"]) for task in sts_rows.resolve(value)]
    named = key in {"path", "backbone", "source", "complement", "generator"} and isinstance(value, str)
    repository = value.partition(":")[0] if named else ""
    is_one = re.fullmatch(r"[\w.-]+/[\w.-]+|(distil)?(bert|roberta)-(base|large)(-uncased)?", repository)
    return [repository] if is_one else []


@every_recipe
def test_what_needs_no_data_and_no_model_can_be_built(path, monkeypatch):
    def read(*_, **__):
        pytest.fail("data or a model is read")

    recipe = load(str(path))
    monkeypatch.setattr("cse.data.reading.files.FileReader.__init__", read)
    monkeypatch.setattr("cse.encoder.model.Encoder.__init__", read)
    recipes.try_out(recipe)


@pytest.mark.parametrize("path", [p for p in FILES if p.parent.name == "paper"], ids=lambda path: path.stem)
def test_a_published_recipe_says_what_it_fetches(path):
    content = yaml.safe_load(recipes.load(f"paper/{path.stem}").text)
    said = recipes.header(path)["needs"].removesuffix("; from the Hub")
    assert said.split(", ") == list(dict.fromkeys(repositories(content)))


# Where they are found
def test_a_folder_of_recipes_where_a_command_runs_shadows_nothing(tmp_path, monkeypatch):
    write(tmp_path, "recipes/simcse-unsup.yaml", {"seed": 1})
    write(tmp_path, "recipes/mine.yaml", {"seed": 1})
    monkeypatch.chdir(tmp_path)
    assert recipes.find("simcse-unsup") == FOLDER / "simcse-unsup.yaml"
    assert recipes.find("recipes/simcse-unsup.yaml") == Path("recipes/simcse-unsup.yaml")
    with pytest.raises(UserError, match=r"'mine' is unknown\nfix: give the file as a path: recipes/mine.yaml"):
        recipes.find("mine")
    assert "mine" not in recipes.names()


def test_a_recipe_knows_whether_it_is_a_file_of_the_user(tmp_path, tiny_bert):
    own = write(tmp_path, "simcse-unsup.yaml", parent_of(tmp_path, tiny_bert))
    assert recipes.load(str(own)).own == own
    assert recipes.load("simcse-unsup").own is None
    assert recipes.load(str(FOLDER / "simcse-unsup.yaml")).own is None


# cse recipe
def test_the_list_says_paper_data_cost_and_choice_of_every_recipe(capsys):
    assert cli.main(["recipe", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[::6] == recipes.names()
    for start, pattern in (
        (1, r"  title  [A-Z].+\."),
        (2, r"  paper  (No paper; |[A-Z].+\((arXiv:\d+\.\d+|aclanthology\.org/[\w.-]+)\)).*"),
        (3, r"  data   \w+ \S+"),
        (4, r"  cost   \d+ forward pass.+"),
        (5, r"  choose when .+\."),
    ):
        assert [line for line in lines[start::6] if not re.fullmatch(pattern, line)] == []


@some_recipes
def test_a_copy_trains_the_same(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["recipe", "copy", recipe_name(path)]) == 0
    copied = Path(path.name)
    content = yaml.safe_load(copied.read_text())
    assert "extends" not in content
    assert recipes.load(str(copied)).text == load(str(path)).text
    assert recipe_command.comments(path) in copied.read_text()
    assert f"cse train {copied}" in capsys.readouterr().out
    assert cli.main(["recipe", "copy", recipe_name(path)]) == 2
    assert capsys.readouterr().err == f"cse: {copied} exists\nfix: give another file, or --force to overwrite it\n"
    assert cli.main(["recipe", "copy", recipe_name(path), path.name, "--force"]) == 0


def test_show_prints_what_a_recipe_gives_or_every_option(capsys):
    assert cli.main(["recipe", "show", "simcse-mined"]) == 0
    shown = capsys.readouterr().out
    assert yaml.safe_load(shown) == recipes.read(FOLDER / "simcse-mined.yaml")
    assert cli.main(["recipe", "show", "simcse-mined", "--defaults"]) == 0
    assert capsys.readouterr().out == recipes.load("simcse-mined").text


# Merging
def test_merging_by_pencil():
    base = {"a": {"x": 1, "y": [1, 2, 3]}, "b": {"class_path": "m.A", "init_args": {"p": 1, "q": {"r": 2}}}, "c": 5}
    over = {"a": {"y": [9]}, "b": {"class_path": "m.A", "init_args": {"q": {"s": 3}}}, "d": 6}
    assert merge(base, over) == {
        "a": {"x": 1, "y": [9]},  # a list replaces its parent's
        "b": {"class_path": "m.A", "init_args": {"p": 1, "q": {"r": 2, "s": 3}}},
        "c": 5,
        "d": 6,
    }
    assert merge(base, {"b": {"init_args": {"p": 7}}})["b"]["init_args"] == {"p": 7, "q": {"r": 2}}
    switched = merge(base, {"b": {"class_path": "m.B", "init_args": {"z": 0}}})
    assert switched["b"] == {"class_path": "m.B", "init_args": {"z": 0}}  # the other class's arguments are gone
    assert merge(base, {"b": {"class_path": "m.B"}})["b"] == {"class_path": "m.B"}
    assert base["a"]["y"] == [1, 2, 3]


def write(folder: Path, name: str, content: dict) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content))
    return path


def parent_of(folder: Path, backbone: str) -> dict:
    adapter = {"class_path": "cse.encoder.Lora", "init_args": {"targets": ["a", "b"]}}
    return {
        "data": {"class_path": "cse.data.Texts", "init_args": {"path": str(write_texts(folder))}},
        "collator": {"class_path": "cse.data.TextViews", "init_args": {"max_length": 12, "views": 3}},
        "encoder": {"class_path": "cse.encoder.Encoder", "init_args": {"backbone": backbone, "adapter": adapter}},
        "objective": {"class_path": "cse.objectives.simcse.SimCSE", "init_args": {"temperature": 0.2}},
        "trainer": {"batch_size": 4, "max_steps": 2},
    }


def test_a_chain_of_parents_in_other_folders(tmp_path, tiny_bert):
    write(tmp_path, "_base.yaml", parent_of(tmp_path, tiny_bert))
    write(tmp_path, "middle.yaml", {"extends": "_base.yaml", "seed": 1, "trainer": {"max_steps": 5}})
    leaf = {
        "extends": "../middle.yaml",
        "seed": 2,
        "encoder": {"init_args": {"adapter": {"init_args": {"targets": ["c"]}}}},
        "objective": {"class_path": "cse.objectives.masked_lm.MaskedLM"},
        "expect": {"dev": [1.0, 2.0]},
    }
    recipe = recipes.load(str(write(tmp_path, "paper/leaf.yaml", leaf)))
    assert recipe.name == "paper-leaf"
    assert recipe.expect == {"dev": [1.0, 2.0]}
    config = recipe.config
    assert (config.seed, config.trainer.max_steps, config.trainer.batch_size) == (2, 5, 4)
    assert config.encoder.init_args.adapter.init_args.targets == ["c"]
    assert config.collator.init_args.views == 3
    assert "temperature" not in recipe.text


def test_the_band_of_a_parent_is_not_inherited(tmp_path, tiny_bert):
    parent = parent_of(tmp_path, tiny_bert) | {"expect": {"tasks": "sts-mini-dev", "low": 1.0, "high": 2.0}}
    write(tmp_path, "parent.yaml", parent)
    child = write(tmp_path, "child.yaml", {"extends": "parent.yaml", "seed": 1})
    grandchild = write(tmp_path, "grandchild.yaml", {"extends": "child.yaml", "expect": {"low": 3.0}})
    assert recipes.load(str(tmp_path / "parent.yaml")).expect["low"] == 1.0
    assert recipes.load(str(child)).expect == {}
    assert recipes.load(str(grandchild)).expect == {"low": 3.0}


def test_overrides_come_last(tmp_path, tiny_bert):
    path = str(write(tmp_path, "plain.yaml", parent_of(tmp_path, tiny_bert)))
    config = recipes.load(
        path, ["--objective.init_args.temperature=0.3", "--trainer.max_steps=7", "--seed", "5"]
    ).config
    assert config.objective.init_args.temperature == 0.3
    assert (config.trainer.max_steps, config.trainer.batch_size, config.seed) == (7, 4, 5)


def test_a_seed_fixes_what_is_built_and_parts_may_be_nested(tmp_path, tiny_bert):
    content = parent_of(tmp_path, tiny_bert)
    content["encoder"]["init_args"] = {"backbone": tiny_bert, "head": "mlp"}
    content["collator"] = {"class_path": "cse.data.Masked", "init_args": {"views": content["collator"]}}
    terms = [content["objective"], {"class_path": "cse.objectives.masked_lm.MaskedLM"}]
    weighted = {"terms": terms, "weights": [1, 0.1]}
    content["objective"] = {"class_path": "cse.objectives.weighted_sum.WeightedSum", "init_args": weighted}
    path = str(write(tmp_path, "nested.yaml", content))
    built = recipes.build(recipes.load(path))
    assert (type(built.data), type(built.collator), type(built.collator.views)) == (Texts, Masked, TextViews)
    assert (built.collator.views.views, built.collator.max_length) == (3, 12)
    assert [type(term) for term in built.objective.terms] == [SimCSE, MaskedLM]
    assert built.objective.terms[0].temperature == 0.2
    assert (built.evaluator, built.callbacks, built.trainer.batch_size) == (None, [], 4)
    head = built.encoder.head.linear.weight
    assert recipes.build(recipes.load(path)).encoder.head.linear.weight.equal(head)
    assert not recipes.build(recipes.load(path, ["--seed=7"])).encoder.head.linear.weight.equal(head)


# Messages
SIMCSE = "cse.objectives.simcse.SimCSE"
SAID = {  # a wrong option -> what is said of it, and the fix
    "--trainer.max_stepz=3": ("option trainer.max_stepz is unknown", "did you mean max_steps?"),
    "--sed=1": ("option --sed is unknown", "did you mean seed?"),
    "--objective.temprature=1": (f"option objective.temprature is unknown to {SIMCSE}", "did you mean temperature?"),
    "--collator.augmentations=[{class_path: cse.augment.WordDeletion, init_args: {probabilty: 1}}]": (
        "option collator.augmentations.probabilty is unknown to cse.augment.WordDeletion",
        "did you mean probability?",
    ),
    "--objective.class_path=cse.objectives.simcse.SimCES": (
        "objective is cse.objectives.simcse.SimCES, and cse.objectives.simcse has no SimCES",
        f"did you mean {SIMCSE}?",
    ),
    "--objective=part.yaml": ("objective is part.yaml", "write class_path and init_args below it"),
    "--objective=null": ("objective is null", "write class_path and init_args below it"),
    "--objective={class_path: cse.objectives.dcl.DCL, temperature: 1}": (
        "objective.temperature is unknown",
        "write class_path and init_args below it, and arguments below init_args",
    ),
    "--trainer.max_steps=many": ("trainer.max_steps is many", "give an integer or null"),
    "--trainer.max_steps=10.0": ("trainer.max_steps is 10.0", "give an integer or null"),
    "--trainer.compile=1": ("trainer.compile is 1", "give true or false"),
    "--trainer.clip=null": ("trainer.clip is null", "give a number"),
    "--objective.temperature=hot": ("objective.temperature is hot", "give a number"),
    "--encoder.pooler=sum": ("encoder.pooler is sum", "give one of cls, mean, last, mean_last_two, first_last_embedd"),
    "--data.path=null": ("data.path is null", "give one file, a folder, or a pattern such as '*.txt'; rows in memory"),
}


@pytest.mark.parametrize("option", SAID)
def test_a_wrong_option_is_named_with_its_value_and_a_fix(option):
    said, fix = SAID[option]
    message = refuses("", recipes.load, "simcse-unsup", [option])
    assert message.startswith(f"recipe simcse-unsup: {said}\nfix: {fix}")


def value_of(config, name):
    for key in name.split("."):
        config = getattr(getattr(config, "init_args", config), key)
    return config


READ = {  # a word -> the value that its declared type makes of it
    "trainer.learning_rate=1e-3": 0.001,
    "trainer.epochs=2": 2.0,
    "trainer.max_steps=null": None,
    "trainer.compile=true": True,
    "trainer.trackers=[tensorboard, wandb]": ["tensorboard", "wandb"],
    "data.column=3": 3,
    "data.column=text": "text",
    "data.path=5": "5",
    "encoder.template={text}": "{text}",
    "encoder.template=a: b": "a: b",
    "encoder.prompts={query: 'a b'}": {"query": "a b"},
    "encoder.prompts.query=1": {"query": "1"},
    "encoder.revision=1e5": "1e5",
    "encoder.layers=3": 3,
    "encoder.dropout.attention=0.2": SimpleNamespace(
        attention=0.2, hidden=None, embedding=0.0, token_cutoff=0.0, feature_cutoff=0.0
    ),
    "encoder.adapter.rank=4": 4,
    "evaluator=null": None,
}


@pytest.mark.parametrize("word", READ)
def test_a_word_is_read_by_the_type_that_its_option_declares(word, tmp_path):
    recipe = recipes.load("simcse-unsup", [f"--{word}"])
    name = word.partition("=")[0].removesuffix(".query").removesuffix(".attention")
    found = value_of(recipe.config, name)
    assert vars(found) == vars(READ[word]) if isinstance(READ[word], SimpleNamespace) else found == READ[word]
    assert type(found) is type(READ[word]) or isinstance(READ[word], SimpleNamespace)
    (tmp_path / "own.yaml").write_text(recipe.text)
    assert recipes.load(str(tmp_path / "own.yaml")).text == recipe.text


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("collator: {init_args: {views: '3'}}", "collator.views is '3'\nfix: give an integer"),
        ("trainer: {learning_rate: '1e-3'}", "trainer.learning_rate is '1e-3'\nfix: give a number"),
        ("trainer: {compile: 'true'}", "trainer.compile is 'true'\nfix: give true or false"),
        ("trainer: {trackers: '[wandb]'}", "trainer.trackers is '[wandb]'\nfix: give a list"),
        ("encoder: {init_args: {revision: 5}}", "encoder.revision is 5\nfix: give a text or null"),
    ],
)
def test_a_file_has_values_of_the_declared_type(written, said, tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(f"extends: {FOLDER / 'simcse-unsup.yaml'}\n{written}\n")
    assert refuses("", recipes.load, str(path)) == f"recipe {path}: {said}"
    path.write_text(path.read_text().replace("'1e-3'", "1e-3"))
    if "learning_rate" in written:
        assert recipes.load(str(path)).config.trainer.learning_rate == 0.001


def test_lists_hold_names_numbers_and_null():
    options = ["--data=cse.data.Pairs", "--data.columns=[a, 1]", "--collator=cse.data.InTemplates"]
    options += ["--collator.views=cse.data.TextViews", "--collator.templates=[null, 'a {text}']"]
    config = recipes.load("simcse-unsup", options).config
    assert config.data.init_args.columns == ["a", 1]
    assert config.collator.make().templates == [None, "a {text}"]


def test_an_argument_named_kind_reaches_its_class(tmp_path, tiny_bert):
    """Each option of an adapter: a name that the recipe's own objects have would be lost."""
    options = {"kind": "pissa", "rank": 3, "alpha": 5.0, "dropout": 0.25, "targets": ["query"]}
    words = [f"--encoder.adapter.{name}={value}" for name, value in options.items() if name != "targets"]
    given = ["--encoder.adapter=cse.encoder.Lora", *words, "--encoder.adapter.targets=[query]"]
    texts = str(write_texts(tmp_path))
    recipe = recipes.load("simcse-unsup", [f"--encoder.backbone={tiny_bert}", f"--data.path={texts}", *given])
    assert vars(recipe.config.encoder.init_args.adapter.init_args) == options


def test_another_class_keeps_the_arguments_that_it_has_too():
    def objective(*options):
        found = recipes.load("simcse-sup", [f"--objective{option}" for option in options]).config.objective
        return found.class_path.rpartition(".")[2], vars(found.init_args)

    own = recipes.load("simcse-sup").config.objective.init_args.temperature
    assert objective("=cse.objectives.dcl.DCL") == ("DCL", {"temperature": own})
    assert objective(".temperature=0.3", ".hardness=2", "=cse.objectives.dcl.DCL") == ("DCL", {"temperature": 0.3})
    assert objective("={class_path: cse.objectives.dcl.DCL}", ".temperature=0.4") == ("DCL", {"temperature": 0.4})
    assert objective("=cse.objectives.masked_lm.MaskedLM")[1].keys() == {"output"}


@pytest.mark.parametrize("option", ["--objective.help", "--objective.help=cse.objectives.simcse.SimCSE"])
def test_the_options_of_a_class_are_explained(option, capsys):
    assert_ends(["check", "simcse-unsup", option])
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("cse.objectives.simcse.SimCSE: ")
    assert "--objective.temperature a number; default: 0.05 t, dimensionless" in said


def assert_ends(line):
    with pytest.raises(SystemExit) as ended:
        cli.main(line)
    assert ended.value.code == 0
