"""`cse.train` makes the run that the command makes, whatever it is given, and says what is wrong before it writes."""

from pathlib import Path

import datasets
import numpy as np
import pandas
import pytest
import torch
import yaml

import cse
from cse import Objective, cli
from cse.seeding import seed_dropout
from tests.runs import TRAINER, Spread, Strikes, metrics, weights, write_recipe, write_texts

TEXTS = ["the cat sat on a", "", "  dog ran fast  ", "the cat sat on a"]


class Scaled(Objective):
    """An objective of the user's, which keeps what it was made with."""

    def __init__(self, *, factor: float = 2.0) -> None:
        super().__init__()
        self.factor = factor
        self.inner = cse.SimCSE()

    def forward(self, views, batch, ctx):
        return cse.LossOutput(self.factor * self.inner(views, batch, ctx).loss)


class Forgetful(Scaled):
    """The same, but nothing tells what it was made with."""

    def __init__(self, weight: float) -> None:
        super().__init__(factor=weight)


def ctrl_c(folder: Path) -> Strikes:
    """Ctrl-C in step 3, once."""
    return Strikes(3, str(folder / "sent"))


@pytest.fixture
def texts(tmp_path) -> list[str]:
    return write_texts(tmp_path).read_text().splitlines()


@pytest.fixture
def recipe(tmp_path, tiny_bert, texts) -> str:
    encoder = {"backbone": tiny_bert, "head": "mlp"}
    return write_recipe(tmp_path, "Texts", {"path": str(tmp_path / "texts.txt")}, encoder)


@pytest.fixture
def commanded(recipe, tmp_path) -> Path:
    """The folder of the run that `cse train` makes of the recipe."""
    assert cli.main(["train", recipe, "--run-dir", str(tmp_path / "commanded")]) == 0
    return tmp_path / "commanded"


def parts_of(tiny_bert):
    """The parts of that recipe as objects, made in the order and with the seed of a recipe."""
    seed_dropout(5, "init")
    return {
        "collator": cse.TextViews(max_length=12),
        "encoder": cse.Encoder(tiny_bert, head="mlp"),
        "objective": cse.SimCSE(),
        "evaluator": Spread(),
    }


def same_run(folder: Path, other: Path) -> None:
    """Both folders hold the same weights and figures."""
    assert metrics(folder) == metrics(other)
    for part in ("best", "last"):
        a, b = ({n: w for n, w in weights(each / part).items() if ".safe" in n} for each in (folder, other))
        assert a == b


# The run of the command
def test_python_and_the_command_make_the_same_run(recipe, commanded, tmp_path):
    run = cse.train(recipe, run_dir=tmp_path / "run")
    same_run(run.folder, commanded)
    assert (run.folder / "recipe.yaml").read_bytes() == (commanded / "recipe.yaml").read_bytes()
    assert {p.name for p in run.folder.iterdir()} == {p.name for p in commanded.iterdir()}


def test_a_mapping_trains_as_the_file_and_torch_stays_as_it_was(recipe, commanded, tmp_path):
    content = yaml.safe_load(Path(recipe).read_text())
    run = cse.train({**content, "objective": cse.SimCSE()}, run_dir=tmp_path / "run")
    same_run(run.folder, commanded)
    assert content == yaml.safe_load(Path(recipe).read_text())
    assert torch.is_grad_enabled()


def test_options_are_those_of_the_command_line(recipe, tmp_path, tiny_bert):
    options = ["--seed=9", "--trainer.max_steps=2", "--objective.temperature=0.2", "--encoder.pooler=mean"]
    assert cli.main(["train", recipe, "--run-dir", str(tmp_path / "commanded"), *options]) == 0
    named = {"objective.temperature": 0.2, "encoder": {"pooler": "mean"}}
    run = cse.train(recipe, seed=9, steps=2, overrides=named, run_dir=tmp_path / "a")
    listed = cse.train(recipe, overrides=options, encoder=tiny_bert, run_dir=tmp_path / "b")
    same_run(run.folder, tmp_path / "commanded")
    same_run(listed.folder, tmp_path / "commanded")


def test_a_part_may_be_a_class_path_or_a_mapping(recipe, tmp_path):
    objective = {"class_path": "cse.objectives.simcse.SimCSE", "init_args": {"temperature": 0.2}}
    parts = {"objective": objective, "sampler": "cse.data.NoDuplicates"}
    run = cse.train(recipe, **parts, steps=2, run_dir=tmp_path / "run")
    written = yaml.safe_load((run.folder / "recipe.yaml").read_text())
    assert written["objective"]["init_args"]["temperature"] == 0.2
    assert written["sampler"]["class_path"] == "cse.data.NoDuplicates"


# What a run tells
def test_a_run_tells_scores_folder_and_best_encoder(recipe, tmp_path):
    run = cse.train(recipe, run_dir=str(tmp_path / "run"))
    dev = [record["dev"] for record in run.metrics]
    assert [record["step"] for record in run.metrics] == [0, 2, 4, 6]
    assert run.scores["first"] == dev[0]
    assert run.scores["best"] == max(dev)
    assert run.scores["best_step"] == 2 * dev.index(max(dev))
    assert run.finished
    assert run.best == tmp_path / "run" / "best"
    vectors = run.encoder.encode(["the cat sat", "dog ran fast"])
    assert float(((vectors[0] - vectors[1]) ** 2).sum()) == pytest.approx(max(dev), rel=1e-5)  # the best weights
    again = cse.TrainedRun(run.folder)
    assert (again.scores, again.metrics, again.finished) == (run.scores, run.metrics, True)
    assert "finished, step 6" in repr(again)


def test_without_an_evaluator_the_last_weights_are_the_best(recipe, tmp_path):
    content = yaml.safe_load(Path(recipe).read_text())
    content.pop("evaluator")
    run = cse.train(content, run_dir=tmp_path / "run")
    assert run.scores == {}
    assert weights(run.best).keys() == weights(run.last).keys()


# Resuming
def test_a_run_of_rows_in_memory_resumes_from_the_shell_wherever_its_folder_is(recipe, commanded, texts, tmp_path):
    run = cse.train(recipe, data=texts, callbacks=[ctrl_c(tmp_path)], run_dir=tmp_path / "run")
    assert not run.finished
    moved = run.folder.rename(tmp_path / "moved")
    assert cli.main(["train", "--resume", str(moved)]) == 0
    same_run(moved, commanded)


def test_an_object_that_can_be_written_resumes_from_the_shell(recipe, tmp_path):
    whole = cse.train(recipe, objective=Scaled(factor=3.0), run_dir=tmp_path / "whole")
    part = cse.train(recipe, objective=Scaled(factor=3.0), callbacks=[ctrl_c(tmp_path)], run_dir=tmp_path / "part")
    written = yaml.safe_load((part.folder / "recipe.yaml").read_text())["objective"]
    assert written == {"class_path": "tests.api.test_train.Scaled", "init_args": {"factor": 3.0}}
    assert cli.main(["train", "--resume", str(part.folder)]) == 0
    same_run(part.folder, whole.folder)


def test_an_object_that_cannot_be_written_is_asked_for(recipe, tmp_path, capsys):
    whole = cse.train(recipe, objective=Forgetful(3.0), run_dir=tmp_path / "whole")
    part = cse.train(recipe, objective=Forgetful(3.0), callbacks=[ctrl_c(tmp_path)], run_dir=tmp_path / "part")
    capsys.readouterr()
    assert cli.main(["train", "--resume", str(part.folder)]) == 2
    said = capsys.readouterr().err
    assert "the objective of the run was an object in Python, Forgetful()" in said
    assert f"fix: cse.resume({str(part.folder)!r}, objective=...)" in said
    assert cse.resume(part, objective=Forgetful(3.0)).finished
    same_run(part.folder, whole.folder)


def test_objects_made_by_hand_resume_in_python(texts, tiny_bert, commanded, tmp_path):
    options = {"overrides": {"trainer": TRAINER}}
    options |= {"callbacks": [ctrl_c(tmp_path)], "run_dir": tmp_path / "run", "seed": 5}
    part = cse.train(data=cse.Texts(texts), **parts_of(tiny_bert), **options)
    with pytest.raises(cse.UserError, match="the encoder of the run was an object in Python, Encoder"):
        cse.resume(part.folder)
    cse.resume(part.folder, encoder=cse.Encoder(tiny_bert, head="mlp"))
    same_run(part.folder, commanded)


# Rows in memory
def kinds_of_texts():
    """Those without columns; `tests/data/test_shapes.py` has tables."""
    texts = [*TEXTS, None]
    return {
        "list": texts,
        "tuple": tuple(texts),
        "tuples of one": [(text,) for text in texts],
        "pandas column": pandas.Series(texts),
        "numpy": np.array(TEXTS),
        "datasets column": datasets.Dataset.from_dict({"text": texts})["text"],
    }


@pytest.mark.parametrize("kind", list(kinds_of_texts()))
def test_every_kind_of_rows_gives_the_same_data(kind, tmp_path):
    rows = kinds_of_texts()[kind]
    data = cse.Texts(rows)
    assert [example.texts for example in data] == [("the cat sat on a",), ("dog ran fast",)]
    assert data.report == {"blank": len(rows) - 3, "duplicate": 1, "missing": 0}
    assert data.describe() == f"{type(rows).__name__} in memory 2 sentences"
    data.save_source(tmp_path / "rows.parquet")
    saved = cse.Texts(tmp_path / "rows.parquet")
    assert (saved.hash, saved.report) == (data.hash, data.report)


def test_tuples_have_the_cells_that_the_class_asks_for(tmp_path):
    pairs = cse.Pairs([("a", "b"), ("c", "d")])
    triplets = cse.Triplets([("a", "b", None), ("c", "d", "e")])
    scored = cse.ScoredPairs([("a", "b", 3), ("c", "d", np.int64(5))], max_score=5)
    weighted = cse.Pairs([("a", "b", 0.1), ("c", "d", 2)], weight_column="weight")
    assert [e.texts for e in pairs] == [("a", "b"), ("c", "d")]
    assert [e.texts for e in triplets] == [("a", "b"), ("c", "d", "e")]
    assert [e.score for e in scored] == [0.6, 1.0]
    assert [e.weight for e in weighted] == [0.1, 2.0]
    for data, arguments in ((triplets, {}), (scored, {"max_score": 5}), (weighted, {"weight_column": "weight"})):
        data.save_source(tmp_path / "rows.parquet")
        assert type(data)(tmp_path / "rows.parquet", **arguments).hash == data.hash
