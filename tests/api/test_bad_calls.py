"""Wrong types and values from Python: a UserError with the text of the command line, and nothing is written."""

from pathlib import Path

import datasets
import pandas
import pytest

import cse
from cse.encoder.model import Encoder
from tests.refusals import refuses
from tests.runs import TRAINER, write_texts

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
