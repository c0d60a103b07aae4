"""`cse adapt`: rows are divided without a leak, what is done survives a kill, and no model ends below its start."""

import json
import shutil
from collections import Counter

import pytest
import yaml

import cse
from cse import Encoder, cli
from cse.adapting import adapt as adapting
from cse.adapting.material import Material, evaluator, halves, prepare
from cse.adapting.ways import ways
from cse.recipe import load
from tests.conftest import WORDS
from tests.feedback.server import Server


@pytest.fixture(autouse=True)
def _offline(monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("CSE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def start(tiny_bert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("start") / "encoder"
    Encoder(tiny_bert, pooler="mean").save(folder)
    return str(folder)


def texts(count, width=4):
    """Distinct texts of the tiny vocabulary: numbers in its base."""
    names = [word for word in WORDS if word.isalpha()]
    return [" ".join(names[n * 7 // len(names) ** i % len(names)] for i in range(width)) for n in range(1, count + 1)]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


GENERAL = [{"text": text} for text in texts(100, 6)]


def pairs(count=120):
    found = texts(2 * count)
    return [{"question": a, "answer": b} for a, b in zip(found[:count], found[count:], strict=True)]


def parts(kind, folder):
    """The texts of each part, as files have them."""
    names = [f"{name}.jsonl" for name in ("train", "dev", "test")]
    if kind != "labels":
        names = ["train.jsonl", "dev/{}.jsonl", "test/{}.jsonl"]
    found = []
    for name in names:
        files = [folder / name.format(role) for role in (["queries", "corpus"] if "{" in name else [""])]
        rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
        found.append({text for row in rows for key, text in row.items() if key not in {"label", "_id"}})
    return dict(zip(("train", "dev", "test"), found, strict=True))


@pytest.mark.parametrize("kind", ["pairs", "labels", "texts"])
def test_no_text_is_in_two_parts(tmp_path, kind):
    """Of 120 rows, every third of which repeats the anchor of the one before it."""
    rows = {
        "pairs": [row | {"question": pairs()[i - i % 3 % 2]["question"]} for i, row in enumerate(pairs())],
        "labels": [{"text": text, "label": f"l{i % 5}"} for i, text in enumerate(texts(120))],
        "texts": [{"text": f"{a} {b}"} for a, b in zip(texts(120, 6), texts(240, 6)[120:], strict=True)],
    }[kind]
    data = write(tmp_path / "rows.jsonl", rows)
    material = prepare(data, tmp_path / "data", columns=None, label_column=None, seed=1)
    assert material.kind == kind
    assert (material.dev, material.test, material.train) == pytest.approx((12, 12, 96), abs=2)
    assert evaluator(kind, tmp_path / "data", "dev")[0].primary in {"probe", "ndcg@10"}
    found = parts(kind, tmp_path / "data")
    for a, b in (("train", "dev"), ("train", "test"), ("dev", "test")):
        assert found[a]
        assert found[b]
        assert not found[a] & found[b]


def test_halves_end_at_a_sentence():
    first, second = "One two three four five six. ", "Seven eight nine ten eleven. Twelve."
    assert halves(first + second) == (first.strip(), second)
    assert halves("a b c d e f g h i j") == ("a b c d e", "f g h i j")
    assert halves("a b c d e f g h i") is None


REFUSED = {
    "few": ([{"text": text} for text in texts(5, 12)], "has 5 texts of 10 words"),
    "equal": ([{"text": "the cat sat on the mat"}] * 50, "every row is the same"),
    "lonely": ([{"text": text, "label": text} for text in texts(60)], "labels with two texts or more"),
    "short": ([{"text": text} for text in texts(60, 3)], "has 0 texts of 10 words"),
    "linked": ([{"question": "the cat", "answer": text} for text in texts(60)], "cannot be divided"),
    "scored": ([{"sentence1": "a", "sentence2": text, "score": 0.5} for text in texts(60)], "has scored pairs"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_rows_that_are_of_no_use(start, tmp_path, capsys, name):
    rows, refused = REFUSED[name]
    data = write(tmp_path / "rows.jsonl", rows)
    assert cli.main(["adapt", data, "--encoder", start, "--out", str(tmp_path / "out")]) == 2
    assert refused in capsys.readouterr().err.replace("\n", " ")


def test_a_budget_that_is_too_short(start, tmp_path, capsys):
    data = write(tmp_path / "rows.jsonl", pairs())
    assert cli.main(["adapt", data, "--encoder", start, "--out", str(tmp_path / "out"), "--budget", "4steps"]) == 2
    said = capsys.readouterr()
    assert "--budget 4steps is too short: it has 4 steps of 64 rows" in said.err
    assert "general    no text to stay the same on: asset:wiki" in said.out  # which cannot be fetched here


def outcome(folder):
    state = json.loads((folder / "adapt.json").read_text())
    return state["steps"], (folder / "report.md").read_text().replace(str(folder), "OUT")


@pytest.fixture(scope="module")
def adapted(start, tmp_path_factory):
    """An adaptation on pairs that share no word by chance, so that there is much to learn."""
    folder = tmp_path_factory.mktemp("adapted")
    data, general = write(folder / "rows.jsonl", pairs()), write(folder / "general.jsonl", GENERAL)
    return data, general, cse.adapt(data, encoder=start, budget="150steps", out=folder / "out", general=general)


def test_what_is_written(adapted, start):
    *_, found = adapted
    steps, report = outcome(found.folder)
    assert {"start", "trained", "contrast-6e-5", "near-6e-5"} <= steps.keys()
    assert json.loads((found.folder / "adapt.json").read_text())["seconds"]["scoring"] > 0
    assert found.verdict[1:] in report
    script = (found.folder / "script.sh").read_text()
    assert [f"cse {word} " in script for word in ("mine", "train lwf", "merge")] == [True] * 3
    line = json.loads((found.folder / "final" / "metrics.jsonl").read_text().splitlines()[-1])
    assert line["drawn_general"] == line["drawn_own"] == 0.5
    if found.model is None:
        assert found.verdict.startswith("keep the encoder as it is")
    else:
        assert found.after > found.before
        assert found.interval[0] > 0
        assert Encoder.load(str(found.model)).dim == Encoder.load(start).dim


@pytest.mark.parametrize("point", ["trial-near-1.2e-4", pytest.param("final", marks=pytest.mark.slow)])
def test_a_killed_adaptation_goes_on(adapted, start, tmp_path, monkeypatch, point):
    """It ends with the same scores and report, and trains nothing again that was done."""
    data, general, whole = adapted
    out, train = tmp_path / "out", adapting.train
    trained = []

    def dies(recipe, **options):
        trained.append(options["run_dir"].name)
        if options["run_dir"].name == point and len(trained) == len(set(trained)):
            raise RuntimeError("killed")
        return train(recipe, **options)

    monkeypatch.setattr(adapting, "train", dies)
    with pytest.raises(RuntimeError, match="killed"):
        cse.adapt(data, encoder=start, budget="150steps", out=out, general=general)
    again = cse.adapt(data, encoder=start, budget="150steps", out=out, general=general)
    assert (again.way, again.before, again.after) == (whole.way, whole.before, whole.after)
    assert outcome(out) == outcome(whole.folder)
    with pytest.raises(cse.UserError, match="was begun with budget=150steps, not 160steps"):
        cse.adapt(data, encoder=start, budget="160steps", out=out, general=general)
    shutil.rmtree(out)


@pytest.mark.parametrize(
    ("total", "tried"),
    [  # a quarter of the budget is shared by ways, each of which has five steps or more
        (100, {"a": 8, "b": 8, "c": 8}),
        (50, {"a": 6, "b": 6}),
        (30, {}),
    ],
)
def test_a_short_budget_tries_fewer_ways(total, tried, monkeypatch):
    seen = {}
    monkeypatch.setattr(adapting._Adaptation, "_tried", lambda _, way, steps: seen.setdefault(way.name, steps))
    monkeypatch.setattr(adapting._Adaptation, "_most", lambda *_: 1000)
    found = [adapting.Way(name, "simcse-sup", ()) for name in "abc"]
    best, spent = adapting._Adaptation.__new__(adapting._Adaptation)._best(found, total)
    assert seen == tried
    assert best.name == "a"
    assert spent == (adapting.TRIALS * total if tried else 0)


def test_a_budget_of_time_pays_for_all_that_it_takes(monkeypatch, tmp_path):
    """Of 130 s, 30 are spent before the first trial and four scorings of 10 s follow; a step takes 2 s."""
    made = adapting._Adaptation.__new__(adapting._Adaptation)
    made.budget, made.folder, made.rows = adapting.Budget.parse("130s"), tmp_path, tmp_path
    made.general, made.material = None, adapting.Material("texts", train=1000, dev=10, test=10)
    made.state = {"asked": {"budget": "130s"}, "seconds": {"step": 2.0, "scoring": 10.0, "spent": 30.0}}
    _, total = made._plan()
    assert total == pytest.approx(adapting.SPENT * (130 - 30 - 4 * 10) / 2)
    made.state["seconds"]["spent"] = 85.0
    with pytest.raises(cse.UserError, match="--budget 130s is too short: it has 2 steps of 64 rows"):
        made._plan()


@pytest.mark.parametrize("general", [None, "general.txt"])
def test_labels_are_contrasted_at_the_temperature_of_the_paper(start, tmp_path, general):
    """SupCon's own, 0.1, and not that of the objective whose place it takes in the recipe."""
    material = Material("labels", train=100, dev=10, test=10, labels=20, fewest=4)
    for way in ways(material, tmp_path, general=general):
        found = yaml.safe_load(load(way.recipe, ["--encoder", start, *way.options]).text)
        objective = found["objective"] if general is None else found["data"]["init_args"]["sources"]["own"]["objective"]
        assert objective["class_path"].endswith("SupCon")
        assert objective["init_args"]["temperature"] == 0.1


def test_texts_become_pairs_by_the_questions_of_a_model(start, tmp_path, capsys, monkeypatch):
    """Of too few texts, then of enough; an endpoint that dies is said, and no question is answered twice."""
    found = texts(240)
    about = dict(zip(found[:120], found[120:], strict=True))
    data, answered = tmp_path / "rows.jsonl", Counter()

    def answer(_, question):
        passage = question.strip().rpartition("Passage: ")[2]
        answered[passage] += 1
        return json.dumps({"queries": [about[passage]]})

    monkeypatch.setattr("tests.feedback.server._Handler.right", answer)
    with Server() as server:
        address = ["--questions", "openai:m", "--base-url", server.url]
        command = [
            "adapt",
            str(data),
            "--encoder",
            start,
            "--budget",
            "20steps",
            "--out",
            str(tmp_path / "out"),
            *address,
        ]
        write(data, [{"text": text} for text in found[:15]])
        assert cli.main(command) == 2
        assert "has 15 rows" in capsys.readouterr().err
        write(data, [{"text": text} for text in found[:120]])
        with monkeypatch.context() as dies:
            dies.setattr(Server, "behavior", lambda server, _: "well" if len(server.requests) < 40 else "status:400")
            assert cli.main(command) == 2
        assert "--questions openai:m: 10 questions in succession had no answer" in capsys.readouterr().err
        assert cli.main(command) == 0
    assert answered == dict.fromkeys(found[:120], 1)
    rows = [json.loads(line) for line in (tmp_path / "out" / "data" / "train.jsonl").read_text().splitlines()]
    assert len(rows) == 96
    assert all(about[row["positive"]] == row["anchor"] for row in rows)
    assert "cse feedback queries --model openai:m" in (tmp_path / "out" / "script.sh").read_text()
