"""A mixture in a recipe, on the command line and in Python: what parses, what is refused, what a run's recipe says."""

import copy
import inspect

import pytest
import yaml

import cse
from cse import cli
from cse.errors import UserError
from cse.recipe import build, load
from cse.training.start import assemble
from tests.runs import NO_DROPOUT, TRAINER, metrics, weights, write_texts, write_triplets
from tests.training.test_mixture import graded, nli, qa

WORDS_DROPPED = {"class_path": "cse.augment.WordDeletion", "init_args": {"probability": 0.3}}


def content(folder, backbone="backbone"):
    """A recipe of three sources, two of them files."""
    (folder / "scored.tsv").write_text(
        "sentence1\tsentence2\tscore\n" + "".join("\t".join([*row.texts, f"{row.score:g}\n"]) for row in graded())
    )
    sources = {
        "nli": {
            "data": {"class_path": "cse.data.Triplets", "init_args": {"path": str(write_triplets(folder))}},
            "weight": 2,
        },
        "plain": {
            "data": {"class_path": "cse.data.Texts", "init_args": {"path": str(write_texts(folder))}},
            "collator": {"class_path": "cse.data.AugmentedViews", "init_args": {"augmentations": [WORDS_DROPPED]}},
            "prompts": {"anchor": "query"},
            "batch_size": 12,
        },
        "graded": {
            "data": {"class_path": "cse.data.ScoredPairs", "init_args": {"path": str(folder / "scored.tsv")}},
            "objective": {"class_path": "cse.objectives.cosent.CoSENT", "init_args": {"temperature": 0.1}},
        },
    }
    return {
        "seed": 5,
        "data": {"class_path": "cse.data.Mixture", "init_args": {"sources": sources}},
        "collator": {"class_path": "cse.data.TextViews", "init_args": {"max_length": 12}},
        "encoder": {
            "class_path": "cse.encoder.Encoder",
            "init_args": {"backbone": backbone, "prompts": {"query": "the "}, **NO_DROPOUT},
        },
        "objective": {"class_path": "cse.objectives.simcse.SimCSE"},
        "evaluator": {"class_path": "tests.runs.Spread"},
        "trainer": dict(TRAINER),
    }


def written(folder, recipe):
    path = folder / "mixture.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return str(path)


def sources_of(recipe):
    return recipe.config.data.init_args.sources


def test_options_of_a_source_on_the_command_line(tmp_path):
    options = [
        "--data.schedule=temperature",
        "--data.temperature=0.5",
        "--data.sources.nli.weight=3",
        "--data.sources.nli.data.limit=9",
        "--data.sources.graded.objective.temperature=0.2",
        "--data.sources.plain.objective=cse.objectives.masked_lm.MaskedLM",
        "--data.sources.more.data=cse.data.Pairs",
        "--data.sources.more.data.path=more.tsv",
    ]
    recipe = load(content(tmp_path), options)
    found = sources_of(recipe)
    assert list(found) == ["nli", "plain", "graded", "more"]
    assert recipe.config.data.init_args.temperature == 0.5
    assert (found["nli"].weight, found["nli"].data.init_args.limit, found["plain"].batch_size) == (3, 9, 12)
    assert found["graded"].objective.init_args.temperature == 0.2
    assert found["plain"].objective.class_path.endswith("MaskedLM")
    assert found["more"].data.init_args.path == "more.tsv"
    assert load(yaml.safe_load(recipe.text)).text == recipe.text


def test_a_recipe_that_extends_another_changes_one_source(tmp_path):
    parent = written(tmp_path, content(tmp_path))
    changes = {"data": {"init_args": {"sources": {"nli": {"weight": 0}, "plain": {"batch_size": 4}}}}}
    (tmp_path / "child.yaml").write_text(yaml.safe_dump({"extends": "mixture.yaml", **changes}))
    found = sources_of(load(str(tmp_path / "child.yaml"), trusted=None))
    assert [(name, source.weight, source.batch_size) for name, source in found.items()] == [
        ("nli", 0, None),
        ("plain", 1, 4),
        ("graded", 1, None),
    ]
    assert load(parent, trusted=None).name == "mixture"


WRONG = {
    "a key": ({"nli.weigth": 3}, [], r"option data.sources.nli.weigth is unknown.*\nfix: did you mean weight\?"),
    "a key of the data": ({"nli.data.init_args.limt": 3}, [], r"data.sources.nli.limt is unknown.*\n.*mean limit\?"),
    "a key of an objective": (
        {"graded.objective.init_args.temprature": 1},
        [],
        r"data.sources.graded.objective.temprature is unknown.*\nfix: did you mean temperature\?",
    ),
    "a value": ({"plain.weight": "many"}, [], "data.sources.plain.weight: expected float"),
    "a class": (
        {"plain.data.class_path": "cse.data.Textz"},
        [],
        "data.sources.plain: module 'cse.data' has no .*Textz",
    ),
    "no data": ({"plain.data": None}, [], "data.sources.plain"),
    "a file": ({"plain": "texts.txt"}, [], r"data.sources.plain is 'texts.txt'\nfix: write options of the source"),
    "a bare class": ({"plain": {"class_path": "cse.data.Texts"}}, [], "data.sources.plain is 'cse.data.Texts'"),
    "an option": (
        {},
        ["--data.sources.nli.wieght=3"],
        r"data.sources.nli.wieght is unknown.*\nfix: did you mean weight",
    ),
    "a name": ({}, ["--data.sources.nlu.weight=3"], r"no source of this name\nfix: did you mean nli\?"),
    "another name": (
        {},
        ["--data.sources.zzzzzz.weight=3"],
        r"fix: give data.sources.zzzzzz.data, or one of nli, plain",
    ),
    "a schedule": ({}, ["--data.schedule=roundrobin"], "data.schedule: expected one of 'proportional', 'temperature'"),
    "a key of the mixture": (
        {},
        ["--data.shedule=weights"],
        r"data.shedule is unknown.*\nfix: did you mean schedule\?",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_option_is_named_with_its_source(tmp_path, name):
    changes, options, message = WRONG[name]
    recipe = content(tmp_path)
    for key, value in changes.items():
        *path, last = key.split(".")
        inner = recipe["data"]["init_args"]["sources"]
        for step in path:
            inner = inner[step]
        inner[last] = value
    with pytest.raises(UserError, match=message):
        load(recipe, options)


def test_sources_have_names(tmp_path):
    recipe = content(tmp_path)
    recipe["data"]["init_args"]["sources"] = list(recipe["data"]["init_args"]["sources"].values())
    with pytest.raises(UserError, match=r"data\.sources is a list\nfix: give every source a name"):
        load(recipe)
    recipe["data"]["init_args"]["sources"] = {}
    with pytest.raises(UserError, match=r"data\.sources is empty"):
        build(load(recipe))


def test_a_source_that_is_given_twice(tmp_path):
    path = written(tmp_path, content(tmp_path))
    text = (tmp_path / "mixture.yaml").read_text().replace("      plain:", "      nli:")
    (tmp_path / "mixture.yaml").write_text(text)
    with pytest.raises(UserError, match="'nli' is given twice, first at line 6"):
        load(path)


def test_a_file_that_cannot_be_read_is_that_of_a_source(tmp_path):
    recipe = load(content(tmp_path), ["--data.sources.nli.data.path=nowhere.tsv"])
    with pytest.raises(UserError, match=r"^sources.nli: data.path .*nowhere.tsv"):
        build(recipe)


def test_what_a_source_has_of_its_own_is_in_its_run(tmp_path, tiny_bert):
    from cse.training.sources import sources

    run = assemble(load(content(tmp_path, tiny_bert)), tmp_path / "run")
    found = sources(run)
    assert sources(run) is found
    assert [each.settings.batch_size for each in found.values()] == [8, 12, 8]
    assert [type(each.objective).__name__ for each in found.values()] == ["SimCSE", "SimCSE", "CoSENT"]
    assert found["nli"].objective is run.objective is found["plain"].objective
    assert [type(each.collator).__name__ for each in found.values()] == ["TextViews", "AugmentedViews", "TextViews"]
    assert [dict(each.collator.prompts) for each in found.values()] == [{}, {"anchor": "query"}, {}]
    assert found["nli"].collator is not found["graded"].collator  # each gets the texts of its source
    assert run.settings.batch_size == 8


def test_train_check_and_the_recipe_of_a_run(tmp_path, tiny_bert, monkeypatch, capsys):
    monkeypatch.setenv("CSE_TRUSTED_MODULES", "tests")
    path = written(tmp_path, content(tmp_path, tiny_bert))
    first, again = tmp_path / "first", tmp_path / "again"
    assert cli.main(["train", path, "--run-dir", str(first), "--data.sources.nli.weight=3"]) == 0
    said = capsys.readouterr().out
    assert said.count("\nsource ") == 3
    assert said.count("\nsources ") == 3
    assert "drawn: nli" in said
    assert cli.main(["train", str(first / "recipe.yaml"), "--run-dir", str(again)]) == 0
    assert metrics(again) == metrics(first)
    assert weights(again / "last") == weights(first / "last")
    assert (again / "recipe.yaml").read_text() == (first / "recipe.yaml").read_text()
    capsys.readouterr()
    assert cli.main(["check", path]) == 0
    said = capsys.readouterr().out
    assert [line.split()[1] for line in said.splitlines() if line.startswith("source ")] == ["nli", "plain", "graded"]
    assert "24 triplets" in said
    assert "30 scored pairs" in said


class Stops(cse.Callback):
    """Ends the process, as it were, after a step."""

    def on_step(self, run, metrics):
        if run.progress.step == 3:
            raise KeyboardInterrupt


def test_rows_in_memory_are_saved_and_resumed(tmp_path, tiny_bert):
    def train(folder, callbacks=()):
        mixture = cse.Mixture(
            {
                "nli": cse.Source(nli(), weight=2),
                "qa": cse.Source(qa(), sampler=cse.NoDuplicates(), prompts={"anchor": "query"}),
                "graded": cse.Source(graded(), objective=cse.CoSENT(temperature=0.1), batch_size=6),
            },
            schedule="temperature",
            temperature=0.5,
        )
        recipe = {key: value for key, value in content(tmp_path, tiny_bert).items() if key != "data"}
        return cse.train(recipe, data=mixture, run_dir=folder, callbacks=callbacks)

    whole = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", [Stops()])
    (tmp_path / "cut").rename(tmp_path / "moved")
    assert sorted(p.name for p in (tmp_path / "moved").glob("*.parquet")) == [
        "rows-graded.parquet",
        "rows-nli.parquet",
        "rows-qa.parquet",
    ]
    done = cse.resume(tmp_path / "moved")
    assert done.finished
    assert metrics(done.folder) == metrics(whole.folder)
    assert weights(done.folder / "last") == weights(whole.folder / "last")


def test_python_and_yaml_name_the_same_options():
    assert list(inspect.signature(cse.Source).parameters) == [
        "data",
        "weight",
        "batch_size",
        "prompts",
        "collator",
        "sampler",
        "objective",
    ]
    assert list(inspect.signature(cse.Mixture).parameters) == ["sources", "schedule", "temperature"]


@pytest.mark.parametrize("parallel", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_two_processes_train_a_mixture_as_one(two_processes, tiny_bert, tmp_path, parallel):
    recipe = copy.deepcopy(content(tmp_path, tiny_bert))
    triplets = (tmp_path / "triplets.tsv").read_text().splitlines()
    ragged = [f"{line}\t{'the dog sat' if i % 5 == 0 else ''}" for i, line in enumerate(triplets[1:])]
    (tmp_path / "ragged.tsv").write_text("\n".join([triplets[0] + "\tmore", *ragged]))
    sources = recipe["data"]["init_args"]["sources"]
    sources["nli"]["data"]["init_args"] = {
        "path": str(tmp_path / "ragged.tsv"),
        "columns": ["premise", "entailment", "contradiction", "more"],
    }
    sources["plain"]["objective"] = {"class_path": "tests.training.test_mixture.WithHead"}
    path = written(tmp_path, recipe)
    parts = ["--trainer.chunk_size=2", "--trainer.accumulation=2", "--data.schedule=round_robin"]
    for options in ([], parts):
        options = [*options, "--data.sources.nli.weight=1"]
        one, two = tmp_path / f"one{len(options)}{options[0]}", tmp_path / f"two{len(options)}{options[0]}"
        assert command(0, "train", path, "--run-dir", str(one), *options) == 0
        words = ["train", path, "--run-dir", str(two), f"--trainer.parallel={parallel}", *options]
        assert two_processes(command, *words) == [0, 0]
        for a, b in zip(metrics(one), metrics(two), strict=True):
            assert a.keys() == b.keys()
            assert [b[k] for k in a] == pytest.approx([a[k] for k in a], rel=1e-5)


def command(rank, *arguments):
    import os

    os.environ["CSE_TRUSTED_MODULES"] = "tests"
    return cli.main(list(arguments))


@pytest.mark.parametrize(
    "option", ["max_words=null", "init_args.max_words=~", "max_words null", "max_words=3 max_words=null"]
)
def test_an_option_of_a_source_can_be_null(tmp_path, option):
    recipe = content(tmp_path)
    recipe["data"]["init_args"]["sources"]["plain"]["data"]["init_args"]["max_words"] = 4
    first, *more = option.split()
    words = [f"--data.sources.plain.data.{first}", *(f"--data.sources.plain.data.{w}" if "=" in w else w for w in more)]
    data = load(written(tmp_path, recipe), words).config.data.init_args.sources["plain"].data
    assert data.init_args.max_words is None
    assert data.init_args.path == recipe["data"]["init_args"]["sources"]["plain"]["data"]["init_args"]["path"]


def test_null_of_a_source_that_the_options_name_or_change(tmp_path):
    def source(name, *options):
        words = [f"--data.sources.{name}.{option}" for option in options]
        return load(written(tmp_path, content(tmp_path)), words).config.data.init_args.sources[name]

    new = source("new", "data=cse.data.Texts", "data.path=texts.txt", "data.limit=3", "data.limit=null")
    assert (new.data.class_path, new.data.init_args.limit) == ("cse.data.Texts", None)
    changed = source("nli", "data=cse.data.Texts", "data.path=texts.txt", "data.max_words=null")
    assert (changed.data.init_args.path, changed.data.init_args.max_words, changed.weight) == ("texts.txt", None, 2)
    assert source("plain", "collator=null", "batch_size=null").collator is None
    assert source("plain", "batch_size=null", "batch_size=4").batch_size == 4
    with pytest.raises(UserError, match=r"data.sources.plain.maxwords is unknown.*\nfix: did you mean max_words"):
        source("plain", "data.maxwords=null")
