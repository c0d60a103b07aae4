"""A mixture in a recipe, on the command line and in Python: what parses, what is refused, what a run's recipe says."""

import pytest
import yaml

import cse
from cse import cli
from cse.recipe import build, load
from cse.training.sources import sources
from cse.training.start import assemble
from tests.refusals import refuses
from tests.runs import Dies, assert_same
from tests.training.helpers import assert_near, graded, mixture_content, mixture_file, nli, qa, trained_by


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
    recipe = load(mixture_content(tmp_path), options)
    found = sources_of(recipe)
    assert list(found) == ["nli", "plain", "graded", "more"]
    assert recipe.config.data.init_args.temperature == 0.5
    assert (found["nli"].weight, found["nli"].data.init_args.limit, found["plain"].batch_size) == (3, 9, 12)
    assert found["graded"].objective.init_args.temperature == 0.2
    assert found["plain"].objective.class_path.endswith("MaskedLM")
    assert found["more"].data.init_args.path == "more.tsv"
    assert load(yaml.safe_load(recipe.text)).text == recipe.text


def test_a_recipe_that_extends_another_changes_one_source(tmp_path):
    mixture_file(tmp_path, mixture_content(tmp_path))
    changes = {"data": {"init_args": {"sources": {"nli": {"weight": 0}, "plain": {"batch_size": 4}}}}}
    (tmp_path / "child.yaml").write_text(yaml.safe_dump({"extends": "mixture.yaml", **changes}))
    found = sources_of(load(str(tmp_path / "child.yaml"), trusted=None))
    assert [(source.weight, source.batch_size) for source in found.values()] == [(0, None), (1, 4), (1, None)]


OF = "data.sources"
WRONG = [  # what a source has, or an option; and what is said of it
    ({"nli.weigth": 3}, rf"option {OF}.nli.weigth is unknown.*\nfix: did you mean weight\?"),
    ({"nli.data.init_args.limt": 3}, rf"{OF}.nli.data.limt is unknown.*\n.*mean limit\?"),
    ({"plain.weight": "many"}, rf"{OF}.plain.weight is 'many'\nfix: give a number"),
    (
        {"plain.data.class_path": "cse.data.Textz"},
        r"plain.data is cse.data.Textz, and cse.data has no Textz\n.*mean",
    ),
    ({"plain.data": None}, f"{OF}.plain"),
    ({"plain": "texts.txt"}, rf"{OF}.plain is 'texts.txt'\nfix: give a mapping of data, weight"),
    (
        {"plain": {"class_path": "cse.data.Texts"}},
        rf"{OF}.plain.class_path is unknown to cse.Source",
    ),
    (f"--{OF}.nli.wieght=3", rf"{OF}.nli.wieght is unknown.*\nfix: did you mean weight"),
    (f"--{OF}.nlu.weight=3", rf"{OF}.nlu: the recipe has no such name\nfix: did you mean nli\?"),
    (f"--{OF}.zzzzzz.weight=3", rf"fix: give {OF}.zzzzzz.data, or one of nli, plain"),
    ("--data.schedule=roundrobin", r"data.schedule is roundrobin\nfix: give one of proportional, temperature, weights"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG)
def test_a_wrong_option_is_named_with_its_source(tmp_path, wrong, message):
    recipe = mixture_content(tmp_path)
    for key, value in wrong.items() if isinstance(wrong, dict) else ():
        *path, last = key.split(".")
        inner = recipe["data"]["init_args"]["sources"]
        for step in path:
            inner = inner[step]
        inner[last] = value
    refuses(message, load, recipe, [wrong] if isinstance(wrong, str) else [])


def test_sources_have_names(tmp_path):
    recipe = mixture_content(tmp_path)
    recipe["data"]["init_args"]["sources"] = list(recipe["data"]["init_args"]["sources"].values())
    refuses(r"data\.sources is \[.*\nfix: give a mapping by name, each a mapping of", load, recipe)
    recipe["data"]["init_args"]["sources"] = {}
    refuses(r"data\.sources is empty", build, load(recipe))


def test_a_source_that_is_given_twice_or_cannot_be_read_is_named(tmp_path):
    path = mixture_file(tmp_path, mixture_content(tmp_path))
    (tmp_path / "twice.yaml").write_text((tmp_path / "mixture.yaml").read_text().replace("    plain:", "    nli:"))
    refuses("'nli' is given twice, first at line 6", load, str(tmp_path / "twice.yaml"))
    refuses(r"^sources.nli: data.path .*nowhere.tsv", build, load(path, ["--data.sources.nli.data.path=nowhere.tsv"]))


def test_what_a_source_has_of_its_own_is_in_its_run(tmp_path, tiny_bert):
    run = assemble(load(mixture_content(tmp_path, tiny_bert)), tmp_path / "run")
    found = sources(run)
    assert sources(run) is found
    assert [each.settings.batch_size for each in found.values()] == [8, 12, 8]
    assert [type(each.objective).__name__ for each in found.values()] == ["SimCSE", "SimCSE", "CoSENT"]
    assert found["nli"].objective is run.objective is found["plain"].objective
    assert [type(each.collator).__name__ for each in found.values()] == ["TextViews", "AugmentedViews", "TextViews"]
    assert [dict(each.collator.prompts) for each in found.values()] == [{}, {"anchor": "query"}, {}]
    assert found["nli"].collator is not found["graded"].collator  # each gets the texts of its source
    assert run.settings.batch_size == 8


def test_train_check_and_the_recipe_of_a_run(tmp_path, tiny_bert, capsys):
    path = mixture_file(tmp_path, mixture_content(tmp_path, tiny_bert))
    first, again = tmp_path / "first", tmp_path / "again"
    assert cli.main(["train", path, "--run-dir", str(first), "--data.sources.nli.weight=3"]) == 0
    assert "drawn: nli" in capsys.readouterr().out
    assert cli.main(["train", str(first / "recipe.yaml"), "--run-dir", str(again)]) == 0
    assert_same(again, first)
    assert (again / "recipe.yaml").read_text() == (first / "recipe.yaml").read_text()
    capsys.readouterr()
    assert cli.main(["check", path]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("source ")] == ["nli", "plain", "graded"]


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
        recipe = {key: value for key, value in mixture_content(tmp_path, tiny_bert).items() if key != "data"}
        return cse.train(recipe, data=mixture, run_dir=folder, callbacks=callbacks)

    whole = train(tmp_path / "whole")
    with pytest.raises(RuntimeError, match="killed"):
        train(tmp_path / "cut", [Dies(3)])
    (tmp_path / "cut").rename(tmp_path / "moved")
    saved = [p.name for p in (tmp_path / "moved").glob("*.parquet")]
    assert sorted(saved) == ["rows-graded.parquet", "rows-nli.parquet", "rows-qa.parquet"]
    done = cse.resume(tmp_path / "moved")
    assert done.finished
    assert_same(done.folder, whole.folder)


@pytest.mark.parametrize("parallel", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_two_processes_train_a_mixture_as_one(two_processes, tiny_bert, tmp_path, parallel):
    recipe = mixture_content(tmp_path, tiny_bert)
    triplets = (tmp_path / "triplets.tsv").read_text().splitlines()
    ragged = [f"{line}\t{'the dog sat' if i % 5 == 0 else ''}" for i, line in enumerate(triplets[1:])]
    (tmp_path / "ragged.tsv").write_text("\n".join([triplets[0] + "\tmore", *ragged]))
    nli, plain, _ = recipe["data"]["init_args"]["sources"].values()
    columns = ["premise", "entailment", "contradiction", "more"]
    nli["data"]["init_args"] = {"path": str(tmp_path / "ragged.tsv"), "columns": columns}
    plain["objective"] = {"class_path": "tests.training.helpers.WithHead"}
    path, more = mixture_file(tmp_path, recipe), ["--data.sources.nli.weight=1", f"--trainer.parallel={parallel}"]
    parts = ["--trainer.chunk_size=2", "--trainer.accumulation=2", "--data.schedule=round_robin"]
    for options in (more, [*parts, *more]):
        one = trained_by(None, path, tmp_path / f"one{len(options)}", *options[:-1])
        assert_near(trained_by(two_processes, path, tmp_path / f"two{len(options)}", *options), one)


@pytest.mark.parametrize(
    "option", ["max_words=null", "init_args.max_words=~", "max_words null", "max_words=3 max_words=null"]
)
def test_an_option_of_a_source_can_be_null(tmp_path, option):
    recipe = mixture_content(tmp_path)
    recipe["data"]["init_args"]["sources"]["plain"]["data"]["init_args"]["max_words"] = 4
    first, *more = option.split()
    words = [f"--data.sources.plain.data.{first}", *(f"--data.sources.plain.data.{w}" if "=" in w else w for w in more)]
    data = load(mixture_file(tmp_path, recipe), words).config.data.init_args.sources["plain"].data
    assert data.init_args.max_words is None
    assert data.init_args.path == recipe["data"]["init_args"]["sources"]["plain"]["data"]["init_args"]["path"]


def test_null_of_a_source_that_the_options_name_or_change(tmp_path):
    def source(name, *options):
        words = [f"--data.sources.{name}.{option}" for option in options]
        return load(mixture_file(tmp_path, mixture_content(tmp_path)), words).config.data.init_args.sources[name]

    new = source("new", "data=cse.data.Texts", "data.path=texts.txt", "data.limit=3", "data.limit=null")
    assert (new.data.class_path, new.data.init_args.limit) == ("cse.data.Texts", None)
    changed = source("nli", "data=cse.data.Texts", "data.path=texts.txt", "data.max_words=null")
    assert (changed.data.init_args.path, changed.data.init_args.max_words, changed.weight) == ("texts.txt", None, 2)
    assert source("plain", "collator=null", "batch_size=null").collator is None
    assert source("plain", "batch_size=null", "batch_size=4").batch_size == 4
