"""Wrong types and values from Python: a UserError with the text of the command line, and nothing is written."""

from __future__ import annotations

from pathlib import Path

import pandas
import pytest

import cse
from cse import evaluation
from cse.encoder.model import Encoder
from cse.errors import UserError
from tests.runs import TRAINER, write_texts

TEXTS = ["the cat sat", "a dog ran", "the sun", "the moon"]


def train(**more):
    """A call that would train, were it not for `more`."""
    options = {"trainer.batch_size": 4, "trainer.device": "cpu", "evaluator.tasks": "sts-mini-dev"}
    given = {"data": TEXTS, "encoder": "ck", "run_dir": "new", "steps": 1, "overrides": options}
    return lambda: cse.train("simcse-unsup", **{**given, **more})


BAD = {  # the call as text -> the call, and what its error says
    "train(data=[])": (train(data=[]), "data"),
    "train(data=5)": (train(data=5), "data"),
    "train(data=[1, 2])": (train(data=[1, 2]), "data"),
    "train(data=[None])": (train(data=[None]), "data"),
    "train(data=[[]])": (train(data=[[]]), "data"),
    "train(data={})": (train(data={}), "data"),
    "train(data=object())": (train(data=object()), "data"),
    "train(data=frame without the column)": (train(data=pandas.DataFrame({"b": TEXTS})), "data.column"),
    "train(data='absent.txt')": (train(data="absent.txt"), "absent.txt"),
    "train(data=a file in bytes)": (train(data=b"texts.txt"), "data"),
    "train(encoder=5)": (train(encoder=5), "encoder is '5'"),
    "train(encoder=[])": (train(encoder=[]), "encoder is '[]'"),
    "train(encoder='absent')": (train(encoder="./absent"), "./absent"),
    "train(encoder={'class_path': 5})": (train(encoder={"class_path": 5}), "encoder"),
    "train(objective=SimCSE)": (train(objective=cse.SimCSE), "objective is"),
    "train(objective='absent.Loss')": (train(objective="absent.Loss"), "absent"),
    "train(objective='cse.Encoder')": (train(objective="cse.Encoder"), "objective"),
    "train(objective=5)": (train(objective=5), "objective is '5'"),
    "train(collator=5)": (train(collator=5), "collator is '5'"),
    "train(evaluator='sts')": (train(evaluator="sts"), "evaluator"),
    "train(evaluator=print)": (train(evaluator=print), "evaluator is"),
    "train(sampler=5)": (train(sampler=5), "sampler is '5'"),
    "train(negatives=5)": (train(negatives=5), "negatives is '5'"),
    "train(callbacks=[5])": (train(callbacks=[5]), "callbacks has '5'"),
    "train(callbacks=[Callback])": (train(callbacks=[cse.Callback]), "callbacks has"),
    "train(callbacks=5)": (train(callbacks=5), "callbacks is 5"),
    "train(steps=0)": (train(steps=0), "trainer.max_steps is 0"),
    "train(steps='many')": (train(steps="many"), "trainer.max_steps"),
    "train(steps=1.5)": (train(steps=1.5), "trainer.max_steps"),
    "train(seed='x')": (train(seed="x"), "seed"),
    "train(run_dir=a file)": (train(run_dir="file"), "file is a file"),
    "train(run_dir=a run)": (train(run_dir="run"), "holds a run already"),
    "train(overrides='--a=1')": (train(overrides="--trainer.max_steps=1"), "overrides is"),
    "train(overrides=5)": (train(overrides=5), "overrides is 5"),
    "train(overrides=[5])": (train(overrides=[5]), "overrides has 5"),
    "train(overrides={'nonsense': 1})": (train(overrides={"nonsense": 1}), "nonsense is unknown"),
    "train(overrides={5: 1})": (train(overrides={5: 1}), "5 is unknown"),
    "train(overrides={'seed': object()})": (train(overrides={"seed": object()}), "is of type object"),
    "train(overrides with nan)": (train(overrides={"trainer.learning_rate": float("nan")}), "learning_rate"),
    "train()": (lambda: cse.train(), "data"),
    "train('nonesuch')": (lambda: cse.train("nonesuch"), "nonesuch"),
    "train(5)": (lambda: cse.train(5), "recipe"),
    "train({'trainer': 5})": (lambda: cse.train({"trainer": 5}), "trainer is 5"),
    "train({'extends': 'nonesuch'})": (lambda: cse.train({"extends": "nonesuch"}), "nonesuch"),
    "resume('absent')": (lambda: cse.resume("absent"), "absent"),
    "resume(a file)": (lambda: cse.resume("file"), "file"),
    "resume(callbacks=[5])": (lambda: cse.resume("run", callbacks=[5]), "callbacks has '5'"),
    "evaluate('absent')": (lambda: cse.evaluate("./absent"), "./absent"),
    "evaluate(a file)": (lambda: cse.evaluate("file"), "file"),
    "evaluate(tasks='nonsense')": (lambda: cse.evaluate("ck", "nonsense"), "'nonsense'"),
    "evaluate(tasks='')": (lambda: cse.evaluate("ck", ""), "names no task"),
    "evaluate(tasks=[5])": (lambda: cse.evaluate("ck", [5]), "tasks: 5 is a int"),
    "evaluate(tasks=5)": (lambda: cse.evaluate("ck", 5), "tasks: 5 is a int"),
    "evaluate(data='absent')": (lambda: cse.evaluate("ck", data="absent"), "'absent'"),
    "evaluate(out=a folder)": (lambda: cse.evaluate("ck", out="folder"), "folder"),
    "evaluate(prompt='nonesuch')": (lambda: cse.evaluate("ck", prompt="nonesuch"), "nonesuch"),
    "evaluate(precision='fp8')": (lambda: cse.evaluate("ck", precision="fp8"), "fp8"),
    "evaluate(dimensions=[0])": (lambda: cse.evaluate("ck", dimensions=[0]), "0"),
    "evaluate(dimensions=[9999])": (lambda: cse.evaluate("ck", dimensions=[9999]), "9999"),
    "evaluate(an evaluator of no rows)": (lambda: cse.evaluate("ck", evaluation.Similarity([])), "data is"),
    "compare('ck', 'absent')": (lambda: cse.compare("ck", "./absent"), "./absent"),
    "compare(tasks='nonsense')": (lambda: cse.compare("ck", "ck", tasks="nonsense"), "'nonsense'"),
    "compare(measures='nonsense')": (
        lambda: cse.compare("ck", "ck", tasks="sts-mini-dev", measures="nonsense"),
        "nonsense",
    ),
    "encode(texts='absent.txt')": (lambda: cse.encode("ck", "absent.txt", "v.npy"), "absent.txt"),
    "encode(texts=a list)": (lambda: cse.encode("ck", TEXTS, "v.npy"), "texts is a list"),
    "encode(out='v.xyz')": (lambda: cse.encode("ck", "texts.txt", "v.xyz"), "v.xyz"),
    "encode(save_every=0)": (lambda: cse.encode("ck", "texts.txt", "v.npy", save_every=0), "save-every"),
    "encode(dimensions=0)": (lambda: cse.encode("ck", "texts.txt", "v.npy", dimensions=0), "dimensions"),
    "encode(column='nonesuch')": (lambda: cse.encode("ck", "table.csv", "v.npy", column="nonesuch"), "nonesuch"),
    "encode(precision='fp8')": (lambda: cse.encode("ck", "texts.txt", "v.npy", precision="fp8"), "fp8"),
    "mine(k=0)": (lambda: cse.mine("ck", TEXTS, k=0), "k is 0"),
    "teach(models='absent')": (lambda: cse.teach("absent", TEXTS, "t.parquet"), "'absent'"),
    "teach(models=[])": (lambda: cse.teach([], TEXTS, "t.parquet"), "--model is empty"),
    "teach(rows='absent.txt')": (lambda: cse.teach("ck", "absent.txt", "t.parquet"), "absent.txt"),
    "teach(rows=5)": (lambda: cse.teach("ck", 5, "t.parquet"), "data is a int"),
    "teach(out=a folder)": (lambda: cse.teach("ck", TEXTS, "folder"), "folder"),
    "teach(out='t.npy')": (lambda: cse.teach("ck", TEXTS, "t.npy"), "t.npy"),
    "mine(k=99)": (lambda: cse.mine("ck", TEXTS, k=99), "k is 99"),
    "mine(rows=[])": (lambda: cse.mine("ck", []), "data"),
    "mine(rows='absent.txt')": (lambda: cse.mine("ck", "absent.txt"), "absent.txt"),
    "mine(rows=5)": (lambda: cse.mine("ck", 5), "data is a int"),
    "mine(out=a folder)": (lambda: cse.mine("ck", TEXTS, out="folder"), "folder"),
    "mine(miner='TopK')": (lambda: cse.mine("ck", TEXTS, miner="TopK"), "miner is 'TopK'"),
    "Texts(5)": (lambda: cse.Texts(5), "data"),
    "Texts([])": (lambda: cse.Texts([]), "data"),
    "Texts([1])": (lambda: cse.Texts([1]), "data"),
    "Texts([('a', 'b'), 'c'])": (lambda: cse.Texts([("a", "b"), "c"]), "data"),
    "Texts(limit=0)": (lambda: cse.Texts(TEXTS, limit=0), "limit is 0"),
    "Texts(column='nonesuch')": (lambda: cse.Texts([{"text": "a"}], column="nonesuch"), "nonesuch"),
    "Pairs(texts)": (lambda: cse.Pairs(TEXTS), "data"),
    "Pairs([('a',)])": (lambda: cse.Pairs([("a",)]), "data"),
    "Pairs(columns=[])": (lambda: cse.Pairs([("a", "b")], columns=[]), "data.columns"),
    "Triplets([('a', 'b')])": (lambda: cse.Triplets([("a", "b")]), "data"),
    "ScoredPairs without a score": (lambda: cse.ScoredPairs([("a", "b")]), "data"),
    "ScoredPairs(score='x')": (lambda: cse.ScoredPairs([("a", "b", "x")]), "x"),
    "ScoredPairs(score=nan)": (lambda: cse.ScoredPairs([("a", "b", float("nan"))]), "the score"),
    "Mixture({})": (lambda: cse.Mixture({}), "data.sources"),
    "Mixture({'a': 5})": (lambda: cse.Mixture({"a": 5}), "data.sources"),
    "Mixture of weights 0": (lambda: cse.Mixture({"a": cse.Source(cse.Texts(TEXTS), weight=0)}), "weight"),
    "SimCSE(temperature=0)": (lambda: cse.SimCSE(temperature=0), "temperature is 0"),
    "SimCSE(temperature=nan)": (lambda: cse.SimCSE(temperature=float("nan")), "temperature is nan"),
    "Lora(rank=0)": (lambda: cse.Lora(rank=0), "rank is 0"),
    "TextViews(max_length=0)": (lambda: cse.TextViews(max_length=0), "max_length is 0"),
    "Encoder('absent')": (lambda: cse.Encoder("./absent"), "./absent"),
    "Encoder(pooler='most')": (lambda: cse.Encoder("ck", pooler="most"), "pooler"),
    "Encoder.load('absent')": (lambda: Encoder.load("./absent"), "./absent"),
    "encode(a number)": (lambda: Encoder.load("ck").encode([5]), "5"),
    "encode(a text)": (lambda: Encoder.load("ck").encode("the cat"), "texts is 'the cat'"),
    "encode(prompt and dimensions)": (lambda: Encoder.load("ck").encode(["a"], dimensions=99), "99"),
    "TrainedRun('absent')": (lambda: cse.TrainedRun("absent"), "absent"),
    "TrainedRun(a folder)": (lambda: cse.TrainedRun("folder"), "folder"),
    "TrainedRun.push before training": (lambda: cse.TrainedRun("begun").push("me/name", dry_run=True), "no checkpoint"),
    "TrainedRun.encoder before training": (lambda: cse.TrainedRun("begun").encoder, "no checkpoint"),
    "TrainedRun.push(a bad name)": (lambda: cse.TrainedRun("run").push("a:b", dry_run=True), "a:b"),
    "TrainedRun.push(license='nonesuch')": (
        lambda: cse.TrainedRun("run").push("me/name", license="nonesuch", dry_run=True),
        "nonesuch",
    ),
}


@pytest.fixture(scope="module")
def place(tiny_bert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    Encoder(tiny_bert, pooler="mean").save(folder / "ck")
    (folder / "texts.txt").write_text("\n".join(TEXTS))
    (folder / "table.csv").write_text("text,b\nthe cat,a dog\n")
    (folder / "file").write_text("kept")
    for name in ("folder", "begun"):
        (folder / name).mkdir()
    (folder / "begun" / "recipe.yaml").write_text("seed: 1\n")
    texts = write_texts(folder / "folder").read_text().splitlines()
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
    with pytest.raises(UserError) as error:
        work()
    lines = str(error.value).splitlines()
    assert said in lines[0]
    assert any(line.startswith("fix: ") for line in lines)
    assert len(lines) <= 5
    assert names(place) == before
