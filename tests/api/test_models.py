"""What one does with a run: score, compare, encode, mine, publish."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pandas
import pytest

import cse
from cse import Encoder
from tests.publish.conftest import elsewhere
from tests.refusals import refuses
from tests.runs import NO_DROPOUT, TRAINER, write_recipe, write_texts

__all__ = ["elsewhere"]  # the fixture
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_bert):
    """A finished run on texts in memory."""
    folder = tmp_path_factory.mktemp("run")
    recipe = write_recipe(folder, "Texts", {"path": str(write_texts(folder))}, {"backbone": tiny_bert})
    return cse.train(recipe, run_dir=folder / "run", steps=2)


def test_evaluate_writes_the_results_that_the_card_shows(run):
    scored = cse.evaluate(run)
    written = json.loads((run.folder / "results-sts-mini.json").read_text())
    assert set(scored.results["tasks"]) == set(written["tasks"]) == {"sts-mini-dev", "sts-mini-test"}
    assert scored.scores == {task: about["all"]["spearman"] for task, about in written["tasks"].items()}
    test = f"sts-mini-test {written['tasks']['sts-mini-test']['all']['spearman']:.2f}"
    assert test in repr(scored)
    assert len(repr(scored)) < 200
    found = cse.compare(scored, run)["sts-mini-test"]
    assert found.a == found.b == scored.results["tasks"]["sts-mini-test"]["all"]["spearman"]
    assert found.verdict == "no difference shown"


def test_mined_rows_are_data_to_train_on(run, tmp_path):
    texts = write_texts(tmp_path).read_text().splitlines()
    mined = cse.mine(run, texts, k=2, out=tmp_path / "mined.parquet")
    in_memory = cse.mine(run, texts, k=2)
    assert mined.hash == in_memory.hash
    assert all(row.texts[0] == row.texts[1] and 1 <= len(row.texts) - 2 <= 2 for row in mined)
    assert json.loads((tmp_path / "mined.json").read_text())["data"]["path"] == "list in memory"
    recipe = write_recipe(
        tmp_path, "Texts", {"path": str(tmp_path / "texts.txt")}, {"backbone": str(run.best), "pooler": "mean"}
    )
    further = cse.train(
        recipe, data=in_memory, overrides={"trainer": {**TRAINER, "max_steps": 1}}, run_dir=tmp_path / "r"
    )
    assert cse.Triplets(further.folder / "rows.parquet", columns=mined.columns).hash == mined.hash


def test_pairs_are_mined_for_in_every_form(run):
    pairs = [("the cat sat", "a cat sat"), ("dog ran fast", "the dog ran"), ("red house", "a red house")]
    found = cse.mine(run, pairs)
    assert [row.texts[:2] for row in found] == pairs
    table = [{"q": a, "d": b} for a, b in pairs]
    for rows, columns in ((table, ["q", "d"]), (cse.Pairs(pairs), None)):
        assert [row.texts for row in cse.mine(run, rows, columns=columns)] == [row.texts for row in found]
    with pytest.raises(cse.UserError, match="none of them with a name that is known"):
        cse.mine(run, table)


@pytest.mark.usefixtures("elsewhere")
def test_push_says_what_would_go(run):
    upload = cse.push(run, "me/name", dry_run=True, license="mit")
    assert {"README.md", "modules.json", "config.json"} <= set(upload.files)
    assert upload.url == ""
    assert set(cse.push(str(run.best), "me/name", dry_run=True, license="mit").files) == set(upload.files)


def test_what_a_run_has_not_yet_is_said(tmp_path):
    (tmp_path / "recipe.yaml").write_text("seed: 1\n")
    empty = cse.TrainedRun(tmp_path)
    assert not empty.finished
    for ask in (lambda: empty.encoder, lambda: cse.push(empty, "me/name"), lambda: cse.evaluate(empty)):
        with pytest.raises(cse.UserError, match=r"has no checkpoint yet\nfix: cse\.resume"):
            ask()


# The package
def test_every_name_exists():
    """That importing cse is quick, `tests/test_cli.py` sees."""
    for name in cse.__all__:
        assert getattr(cse, name).__doc__
    assert set(cse.__all__) <= set(dir(cse))
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        getattr(cse, "trian")  # noqa: B009


DELETION = {"class_path": "cse.augment.WordDeletion", "init_args": {"probability": 0.3}}
INIT = {"max_length": 12, "augmentations": [DELETION]}
AUGMENTED = {"class_path": "cse.data.AugmentedViews", "init_args": INIT}
LAUNCHED = """
import accelerate, cse, sys
recipe, folder, port = sys.argv[1:]

def training():
    cse.train(recipe, data=[line.strip() for line in open("texts.txt")], run_dir=folder)

if __name__ == "__main__":
    accelerate.notebook_launcher(training, num_processes=2, use_port=port)
    print(cse.TrainedRun(folder))
"""


@pytest.mark.slow
def test_two_processes_of_a_notebook_make_the_run_of_one(tmp_path, tiny_bert):
    data = {"path": str(write_texts(tmp_path))}
    recipe = write_recipe(tmp_path, "Texts", data, {"backbone": tiny_bert, **NO_DROPOUT}, collator=AUGMENTED)
    alone = cse.train(recipe, run_dir=tmp_path / "alone")
    (tmp_path / "launched.py").write_text(LAUNCHED)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launched = subprocess.Popen(
        [sys.executable, "launched.py", recipe, "together", port],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = launched.communicate(timeout=200)
    finally:
        if launched.poll() is None:
            os.killpg(launched.pid, signal.SIGKILL)
    assert launched.returncode == 0, err[-3000:]
    assert "finished, step 6" in out
    assert "cpu×2" in out
    together = cse.TrainedRun(tmp_path / "together")
    np.testing.assert_allclose(
        [record["dev"] for record in alone.metrics], [record["dev"] for record in together.metrics], rtol=1e-4
    )
    np.testing.assert_allclose(alone.encoder.encode(["the cat"]), together.encoder.encode(["the cat"]), atol=1e-4)


TEXTS = ["the cat sat", "a dog ran", "the sun", "the moon"]
DATES = pandas.DataFrame({"text": pandas.to_datetime(["2020-01-01"])})
WITHIN = {"class_path": "cse.data.Masked", "init_args": {"views": cse.TextViews()}}
CHANGED = {"objective.temperature": 0.1}


def train(**more):
    """A call that would train, were it not for `more`."""
    options = {"trainer.batch_size": 4, "trainer.device": "cpu", "evaluator.tasks": "sts-mini-dev"}
    given = {"data": TEXTS, "encoder": "ck", "run_dir": "new", "steps": 1, "overrides": options}
    return lambda: cse.train("simcse-unsup", **{**given, **more})


BAD = {  # the call as text -> the call, and what its error says
    "train(data=[])": (train(data=[]), "data"),
    "train(data=5)": (train(data=5), "data is a int"),
    "train(data=['a', 2])": (train(data=["a", 2]), "data: row 2 is '2', of type int"),
    "train(data=a generator)": (train(data=(text for text in TEXTS)), "data is a generator"),
    "train(data=several splits)": (train(data=datasets.DatasetDict()), "data is a DatasetDict"),
    "train(data=dicts without the column)": (train(data=[{"words": "a"}]), "no column 'text'; its columns are 'words'"),
    "train(data=frame without names)": (train(data=pandas.DataFrame([["a"], ["b"]])), "its columns are '0'"),
    "train(data=frame of dates)": (train(data=DATES), "has a Timestamp instead of a text"),
    "train(data=pairs)": (train(data=[("a", "b")] * 3), "data: row 1 has 2 cells; expected 1: text"),
    "train(data=one text)": (train(data=["a", "a"]), "every row is the same"),
    "train(data=a file in bytes)": (train(data=b"texts.txt"), "data"),
    "train(encoder=5)": (train(encoder=5), "encoder is '5'"),
    "train(encoder={'class_path': 5})": (train(encoder={"class_path": 5}), "encoder"),
    "train(objective='absent.Loss')": (train(objective="absent.Loss"), "absent"),
    "train(an option of an object)": (train(objective=cse.SimCSE(), overrides=CHANGED), "cannot change the objective"),
    "train(overrides=an object)": (train(overrides={"objective": cse.SimCSE()}), "objective is of type SimCSE"),
    "train(collator=an objective)": (train(collator=cse.SimCSE()), "of type SimCSE"),
    "train(collator=an object within)": (train(collator=WITHIN), "is an object of Python within a mapping"),
    "train(rows without a class)": (lambda: cse.train(data=TEXTS), "no recipe says which class reads the rows"),
    "train(evaluator=print)": (train(evaluator=print), "evaluator is"),
    "train(callbacks=[5])": (train(callbacks=[5]), "callbacks has '5'"),
    "train(steps='many')": (train(steps="many"), "trainer.max_steps"),
    "train(overrides=5)": (train(overrides=5), "overrides is 5"),
    "train(overrides=[5])": (train(overrides=[5]), "overrides has 5"),
    "train()": (lambda: cse.train(), "it lacks data, collator, encoder, objective"),
    "train({'trainer': 5})": (lambda: cse.train({"trainer": 5}), "trainer is 5"),
    "evaluate(tasks=5)": (lambda: cse.evaluate("ck", 5), "tasks: 5 is a int"),
    "evaluate(precision='fp8')": (lambda: cse.evaluate("ck", precision="fp8"), "fp8"),
    "compare(measures='nonsense')": (
        lambda: cse.compare("ck", "ck", tasks="sts-mini-dev", measures="nonsense"),
        "nonsense",
    ),
    "encode(texts=a list)": (lambda: cse.encode("ck", TEXTS, "v.npy"), "texts is a list"),
    "mine(rows=5)": (lambda: cse.mine("ck", 5), "data is a int"),
    "mine(miner='TopK')": (lambda: cse.mine("ck", TEXTS, miner="TopK"), "miner is 'TopK'"),
    "Pairs(texts)": (lambda: cse.Pairs(TEXTS), "data"),
    "Mixture({})": (lambda: cse.Mixture({}), "data.sources"),
    "Mixture({'a': 5})": (lambda: cse.Mixture({"a": 5}), "data.sources"),
    "Mixture of weights 0": (lambda: cse.Mixture({"a": cse.Source(cse.Texts(TEXTS), weight=0)}), "weight"),
    "encode(a text)": (lambda: Encoder.load("ck").encode("the cat"), "texts is 'the cat'"),
    "encode(prompt and dimensions)": (lambda: Encoder.load("ck").encode(["a"], dimensions=99), "99"),
    "push(license='none such')": (
        lambda: cse.push(cse.TrainedRun("run"), "me/name", license="none such", dry_run=True),
        "none such",
    ),
}


@pytest.fixture(scope="module")
def place(tiny_bert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    Encoder(tiny_bert, pooler="mean").save(folder / "ck")
    texts = write_texts(folder).read_text().splitlines()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CSE_CACHE", str(folder / "cache"))
        options = {f"trainer.{name}": value for name, value in {**TRAINER, "max_steps": 1}.items()}
        options["evaluator.tasks"] = "sts-mini-dev"
        cse.train("simcse-unsup", data=texts, encoder=tiny_bert, run_dir=folder / "run", overrides=options)
    return folder


def names(folder: Path) -> dict[str, int]:
    found = {p for p in folder.rglob("*") if p.is_file() and "cache" not in p.parts and not p.name.startswith(".")}
    return {str(p): p.stat().st_size for p in found}


@pytest.mark.parametrize("call", BAD)
def test_it_is_a_user_error(call, place, monkeypatch):
    monkeypatch.chdir(place)
    before = names(place)
    work, said = BAD[call]
    assert said in refuses("", work).splitlines()[0]
    assert names(place) == before
