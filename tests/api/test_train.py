"""`cse.train` makes the run that the command makes, whatever it is given, and says what is wrong before it writes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import cse
from cse import cli
from cse.interfaces import Objective
from tests.runs import TRAINER, Spread, metrics, weights, write_recipe, write_texts

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


class StopsAt(cse.Callback):
    """Presses Ctrl-C once."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, run, metrics):
        if run.progress.step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


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
    from cse.seeding import seed_dropout

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
        a, b = (weights(each / part) for each in (folder, other))
        assert {n: v for n, v in a.items() if n.endswith(".safetensors")} == {
            n: v for n, v in b.items() if n.endswith(".safetensors")
        }


# -- The run of the command --------------------------------------------------------------------------------------------


def test_python_and_the_command_make_the_same_run(recipe, commanded, tmp_path):
    run = cse.train(recipe, run_dir=tmp_path / "run")
    same_run(run.folder, commanded)
    assert (run.folder / "recipe.yaml").read_bytes() == (commanded / "recipe.yaml").read_bytes()
    assert {p.name for p in run.folder.iterdir()} == {p.name for p in commanded.iterdir()}


def test_rows_in_memory_train_as_the_file(recipe, commanded, texts, tmp_path):
    run = cse.train(recipe, data=texts, run_dir=tmp_path / "run")
    same_run(run.folder, commanded)
    assert yaml.safe_load((run.folder / "recipe.yaml").read_text())["data"]["init_args"]["path"] == "rows.parquet"
    assert [e.texts[0] for e in cse.Texts(run.folder / "rows.parquet")] == texts


def test_objects_train_as_the_recipe(commanded, texts, tiny_bert, tmp_path):
    run = cse.train(
        data=cse.Texts(texts), **parts_of(tiny_bert), seed=5, overrides={"trainer": TRAINER}, run_dir=tmp_path / "run"
    )
    same_run(run.folder, commanded)


def test_a_mapping_trains_as_the_file(recipe, commanded, tmp_path):
    content = yaml.safe_load(Path(recipe).read_text())
    run = cse.train({**content, "objective": cse.SimCSE()}, run_dir=tmp_path / "run")
    same_run(run.folder, commanded)
    assert content == yaml.safe_load(Path(recipe).read_text())


def test_options_are_those_of_the_command_line(recipe, tmp_path, tiny_bert):
    options = ["--seed=9", "--trainer.max_steps=2", "--objective.temperature=0.2", "--encoder.pooler=mean"]
    assert cli.main(["train", recipe, "--run-dir", str(tmp_path / "commanded"), *options]) == 0
    named = {"objective.temperature": 0.2, "encoder": {"pooler": "mean"}}
    run = cse.train(recipe, seed=9, steps=2, overrides=named, run_dir=tmp_path / "a")
    listed = cse.train(recipe, overrides=options, encoder=tiny_bert, run_dir=tmp_path / "b")
    same_run(run.folder, tmp_path / "commanded")
    same_run(listed.folder, tmp_path / "commanded")


def test_a_part_may_be_a_class_path_or_a_mapping(recipe, tmp_path):
    run = cse.train(
        recipe,
        objective={"class_path": "cse.objectives.simcse.SimCSE", "init_args": {"temperature": 0.2}},
        sampler="cse.data.NoDuplicates",
        steps=2,
        run_dir=tmp_path / "run",
    )
    written = yaml.safe_load((run.folder / "recipe.yaml").read_text())
    assert written["objective"]["init_args"]["temperature"] == 0.2
    assert written["sampler"]["class_path"] == "cse.data.NoDuplicates"


# -- What a run tells --------------------------------------------------------------------------------------------------


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


# -- Resuming ----------------------------------------------------------------------------------------------------------


def test_a_run_of_rows_in_memory_resumes_from_the_shell_wherever_its_folder_is(recipe, commanded, texts, tmp_path):
    run = cse.train(recipe, data=texts, callbacks=[StopsAt(3)], run_dir=tmp_path / "run")
    assert not run.finished
    moved = run.folder.rename(tmp_path / "moved")
    assert cli.main(["train", "--resume", str(moved)]) == 0
    same_run(moved, commanded)


def test_an_object_that_can_be_written_resumes_from_the_shell(recipe, tmp_path):
    whole = cse.train(recipe, objective=Scaled(factor=3.0), run_dir=tmp_path / "whole")
    part = cse.train(recipe, objective=Scaled(factor=3.0), callbacks=[StopsAt(3)], run_dir=tmp_path / "part")
    written = yaml.safe_load((part.folder / "recipe.yaml").read_text())["objective"]
    assert written == {"class_path": "tests.api.test_train.Scaled", "init_args": {"factor": 3.0}}
    assert cli.main(["train", "--resume", str(part.folder)]) == 0
    same_run(part.folder, whole.folder)


def test_an_object_that_cannot_be_written_is_asked_for(recipe, tmp_path, capsys):
    whole = cse.train(recipe, objective=Forgetful(3.0), run_dir=tmp_path / "whole")
    part = cse.train(recipe, objective=Forgetful(3.0), callbacks=[StopsAt(3)], run_dir=tmp_path / "part")
    capsys.readouterr()
    assert cli.main(["train", "--resume", str(part.folder)]) == 2
    said = capsys.readouterr().err
    assert "the objective of the run was an object in Python, Forgetful()" in said
    assert f"fix: cse.resume({str(part.folder)!r}, objective=...)" in said
    assert cse.resume(part, objective=Forgetful(3.0)).finished
    same_run(part.folder, whole.folder)


def test_objects_made_by_hand_resume_in_python(texts, tiny_bert, commanded, tmp_path):
    options = {"trainer": TRAINER}
    part = cse.train(
        data=cse.Texts(texts),
        **parts_of(tiny_bert),
        seed=5,
        overrides=options,
        callbacks=[StopsAt(3)],
        run_dir=tmp_path / "run",
    )
    with pytest.raises(cse.UserError, match="the encoder of the run was an object in Python, Encoder"):
        cse.resume(part.folder)
    cse.resume(part.folder, encoder=cse.Encoder(tiny_bert, head="mlp"))
    same_run(part.folder, commanded)


def test_a_second_run_into_the_folder_is_refused(recipe, texts, tmp_path):
    run = cse.train(recipe, steps=2, run_dir=tmp_path / "run")
    before = weights(run.folder)
    with pytest.raises(cse.UserError, match="holds a run already\nfix: cse train --resume"):
        cse.train(recipe, data=texts, run_dir=tmp_path / "run")
    assert weights(run.folder) == before


# -- Rows in memory ----------------------------------------------------------------------------------------------------


def kinds_of_texts():
    import datasets
    import pandas
    import polars

    column = {"text": [*TEXTS, None], "weight": [1, 2, 3, 4, 5]}
    return {
        "list": [*TEXTS, None],
        "tuple": (*TEXTS, None),
        "dicts": [dict(zip(column, row, strict=True)) for row in zip(*column.values(), strict=True)],
        "tuples of one": [(text,) for text in [*TEXTS, None]],
        "pandas": pandas.DataFrame(column),
        "pandas column": pandas.DataFrame(column)["text"],
        "numpy": np.array(TEXTS),
        "polars": polars.DataFrame(column),
        "datasets": datasets.Dataset.from_dict(column),
        "datasets column": datasets.Dataset.from_dict(column)["text"],
        "arrow": datasets.Dataset.from_dict(column).data.table,
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


def bad_rows():
    import datasets
    import pandas

    return {
        "an empty list": ([], "data is a list in memory: there is no text in it"),
        "numbers": ([1, 2], "data: row 1 is '1', of type int\nfix: give a string"),
        "a number among texts": (["a", 2], "data: row 2 is '2', of type int"),
        "a generator": ((text for text in TEXTS), "data is a generator\nfix: give list(data)"),
        "a set": ({"a", "b"}, "data is a set\nfix: give list(data)"),
        "a dict of columns": ({"text": ["a", "b"]}, "data is a dict\nfix: give a list of rows"),
        "several splits": (datasets.DatasetDict(), "data is a DatasetDict\nfix: give a list of rows, or one split"),
        "a number": (5, "data is a int\nfix: give a list of strings"),
        "bytes": (b"ab", "data: row 1 is '97', of type int"),
        "dicts without the column": ([{"words": "a"}], "no column 'text'; its columns are 'words'"),
        "a frame without the column": (pandas.DataFrame({"a": ["b"]}), "the DataFrame in memory has no column 'text'"),
        "a frame without names": (pandas.DataFrame([["a"], ["b"]]), "no column 'text'; its columns are '0'"),
        "a frame of dates": (
            pandas.DataFrame({"text": pandas.to_datetime(["2020-01-01"])}),
            "has a Timestamp instead of a text",
        ),
        "a frame of lists": (pandas.DataFrame({"text": [["a"]]}), "row 1, column 'text' has a list instead of a text"),
        "pairs for a recipe of texts": (
            [("a", "b")] * 3,
            "data: row 1 has 2 cells; expected 1: text\nfix: use the data",
        ),
        "half a character": (["a", "\ud800"], "row 2, column 'text' contains half a character"),
        "one text": (["a", "a"], "every row is the same"),
    }


@pytest.mark.parametrize("kind", list(bad_rows()))
def test_bad_rows_are_named_before_anything_is_written(kind, recipe, tmp_path):
    rows, message = bad_rows()[kind]
    with pytest.raises(cse.UserError) as refused:
        cse.train(recipe, data=rows, run_dir=tmp_path / "run")
    assert message in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_the_row_is_named():
    rows = [("a", f"b{i}", 0.5) for i in range(30)]
    rows[16] = ("a", "b", "high")
    with pytest.raises(cse.UserError, match=r"row 17 has the score 'high'"):
        cse.ScoredPairs(rows)
    rows[16] = ("a", "b")
    with pytest.raises(cse.UserError, match="row 17 has 2 cells; expected 3: sentence1, sentence2, score"):
        cse.ScoredPairs(rows)
    with pytest.raises(cse.UserError, match="row 1 has 1 text; expected 3: premise, entailment, contradiction"):
        cse.Triplets(["a", "b"])


# -- Bad arguments -----------------------------------------------------------------------------------------------------

BAD = {
    "unknown recipe": (lambda r: cse.train("simcse-unsupp"), "did you mean 'simcse-unsup'"),
    "steps": (lambda r: cse.train(r, steps="many"), "trainer.max_steps: expected int"),
    "seed": (lambda r: cse.train(r, seed=0.5), "seed: expected int"),
    "steps of 0": (lambda r: cse.train(r, steps=0), "trainer.max_steps is 0"),
    "unknown option": (lambda r: cse.train(r, overrides={"trainer.max_stepz": 3}), "did you mean trainer.max_steps"),
    "wrong value": (
        lambda r: cse.train(r, overrides={"trainer": {"batch_size": "x"}}),
        "trainer.batch_size: expected int",
    ),
    "an object as a value": (
        lambda r: cse.train(r, overrides={"objective": cse.SimCSE()}),
        "objective is of type SimCSE",
    ),
    "one string": (lambda r: cse.train(r, overrides="--seed=1"), "give a list of options"),
    "an option of an object": (
        lambda r: cse.train(r, objective=cse.SimCSE(), overrides={"objective.temperature": 0.1}),
        "option --objective.temperature=0.1 cannot change the objective, which is an object",
    ),
    "a class": (lambda r: cse.train(r, objective=cse.SimCSE), "of type ABCMeta\nfix: give a Objective object"),
    "another kind": (lambda r: cse.train(r, collator=cse.SimCSE()), "of type SimCSE\nfix: give a Collator object"),
    "a callback by name": (lambda r: cse.train(r, callbacks=["x"]), "callbacks has 'x', of type str"),
    "no parts": (lambda r: cse.train(), "it lacks collator, data, encoder, objective"),
    "rows without a class": (lambda r: cse.train(data=["a", "b"]), "no recipe says which class reads the rows"),
    "an object within a mapping": (
        lambda r: cse.train(r, collator={"class_path": "cse.data.Masked", "init_args": {"views": cse.TextViews()}}),
        "is an object of Python within a mapping",
    ),
    "no run": (lambda r: cse.resume("nowhere"), "is not a run"),
    "no run to open": (lambda r: cse.TrainedRun("nowhere"), "is not a run"),
}


@pytest.mark.parametrize("case", list(BAD))
def test_bad_arguments_are_named_before_anything_is_written(case, recipe, tmp_path, monkeypatch):
    call, message = BAD[case]
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(cse.UserError) as refused:
        call(recipe)
    assert message in str(refused.value)
    assert "\nfix: " in str(refused.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_leaves_torch_as_it_was(recipe, tmp_path):
    torch.manual_seed(0)
    cse.train(recipe, steps=2, run_dir=tmp_path / "run")
    assert torch.is_grad_enabled()
