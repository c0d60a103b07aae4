"""The tables that end a run: what it helped a sentence encoder, with merged/, and what distillation kept."""

import json

import pytest
import torch
from safetensors.torch import load_file

from cse import Callback, Encoder, Evaluator, FeatureDistillation, FrozenEncoder, STSEvaluator, TextViews, Trainer
from cse.data.reading.texts import same_text_key
from cse.evaluation.results import Scored
from cse.files import read_json
from cse.training.helped import DISTILLED, Distilled, Helped
from cse.training.start import resume, train
from tests.runs import NO_DROPOUT, Dies, Spread, assert_same, make_run, metrics, weights, write_recipe, write_triplets
from tests.training.helpers import trained_by

TASKS = "sts-mini-dev"


@pytest.fixture(autouse=True)
def _no_data(monkeypatch):
    monkeypatch.delenv("CSE_DATA", raising=False)


@pytest.fixture(scope="module")
def embedder(tiny_bert, tmp_path_factory) -> str:
    """A tiny sentence encoder, as a folder: what sentence-transformers would load."""
    folder = tmp_path_factory.mktemp("embedder") / "model"
    Encoder(tiny_bert, pooler="mean").save(folder)
    return str(folder)


def fit(folder, backbone, *, resume=False, before=(), evaluator=None, **trainer):
    """Train 4 steps with the callback of the table."""
    encoder = Encoder(backbone, pooler="mean")
    run = make_run(folder, backbone, encoder=encoder, max_steps=4, **{"learning_rate": 1e-2, **trainer})
    run.evaluator = STSEvaluator(TASKS, precision="fp32") if evaluator is None else evaluator or None
    run.callbacks = [*before, Helped()]
    return Trainer(run).fit(resume=resume)


def table(run):
    return json.loads((run.folder / "helped.json").read_text())


def test_a_run_on_a_sentence_encoder_ends_with_the_table(embedder, tmp_path, capsys):
    run = fit(tmp_path, embedder)
    found = table(run)
    rows = {(row["checkpoint"], row["part"]): row for row in found["rows"]}
    log = metrics(run.folder)
    assert rows["best", "dev"]["before"] == pytest.approx(log[0]["dev"], abs=1e-9)
    assert rows["best", "dev"]["after"] == pytest.approx(max(line["dev"] for line in log), abs=1e-3)
    general = STSEvaluator("sts-mini-test", precision="fp32")
    assert rows["best", "general"]["before"] == pytest.approx(general(Encoder.load(embedder))["dev"], abs=1e-3)
    best = general(Encoder.load(str(run.folder / "best")))["dev"]
    assert rows["best", "general"]["after"] == pytest.approx(best, abs=1e-9)
    assert rows["best", "general"]["task"] == "sts-mini-test"
    assert found["seconds"].keys() == {"training", "before", "after"}
    printed = capsys.readouterr().out
    assert "helped     scores × 100" in printed
    assert "verdict    best/" in printed
    assert "cost       " in printed
    assert set(Scored.read(run.folder / "before.json").cosine) == {"sts-mini-dev", "sts-mini-test"}
    assert not (run.folder / "merged").exists()
    assert not (run.folder / "initial").exists()


class Falls(Evaluator):
    """A score that falls with every evaluation."""

    primary = "falls"

    def __init__(self):
        self.calls = 0

    def __call__(self, encoder):
        self.calls += 1
        return {"falls": 10.0 - self.calls}


def test_if_the_best_step_is_the_start_last_is_shown_too(embedder, tmp_path, capsys):
    run = fit(tmp_path, embedder, evaluator=Falls())
    assert run.progress.best_step == 0
    rows = table(run)["rows"]
    assert [row["checkpoint"] for row in rows if row["headline"]] == ["best"] * 3 + ["last"] * 3
    assert all(row["difference"] == 0 for row in rows if row["checkpoint"] == "best")
    assert rows[0]["before"] == 9.0
    assert "verdict    best/ has the scores of the encoder before training" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("plain", "trainer", "shown"),
    [
        (True, {}, False),
        (True, {"initial_weights": "compare"}, True),
        (True, {"initial_weights": 0.5}, True),
        (False, {"initial_weights": "ignore"}, False),
    ],
)
def test_who_gets_a_table(embedder, tiny_bert, tmp_path, plain, trainer, shown):
    run = fit(tmp_path, tiny_bert if plain else embedder, **trainer)
    assert (run.folder / "helped.json").exists() == (run.folder / "before.json").exists() == shown
    assert (run.folder / "merged").exists() == (run.settings.merged_share is not None)


def test_a_score_without_pairs_is_in_the_table(embedder, tmp_path):
    run = fit(tmp_path, embedder, evaluator=Spread())
    dev, *general = table(run)["rows"]
    assert (dev["part"], dev["task"], dev["interval"]) == ("dev", "spread", None)
    assert dev["before"] == run.progress.first
    assert dev["after"] == pytest.approx(run.progress.best, rel=1e-5)
    assert {row["task"] for row in general if row["part"] == "general"} == {"sts-mini-dev", "sts-mini-test", "average"}


def test_without_an_evaluator_the_general_set_is_compared(embedder, tmp_path):
    run = fit(tmp_path, embedder, evaluator=False)
    assert {(row["checkpoint"], row["part"]) for row in table(run)["rows"]} == {("best", "general"), ("best", "search")}


def test_merged_is_the_mean_of_last_and_the_source(embedder, tmp_path):
    run = fit(tmp_path, embedder, initial_weights=0.25)
    start = load_file(f"{embedder}/model.safetensors")
    last = load_file(run.folder / "last" / "model.safetensors")
    for name, value in load_file(run.folder / "merged" / "model.safetensors").items():
        want = 0.75 * start[name].double() + 0.25 * last[name].double()
        torch.testing.assert_close(value.double(), want, rtol=1e-6, atol=1e-7)
    assert not torch.equal(last[name], start[name])
    rows = [row for row in table(run)["rows"] if row["checkpoint"] == "merged"]
    scored = STSEvaluator(TASKS, precision="fp32")(Encoder.load(str(run.folder / "merged")))["dev"]
    assert rows[0]["after"] == pytest.approx(scored, abs=1e-9)
    assert not (run.folder / "initial").exists()


@pytest.mark.parametrize(("event", "step"), [("step", 3), ("end", 4)])
def test_a_killed_run_ends_with_the_same_merged_weights_and_table(embedder, tmp_path, event, step):
    whole = fit(tmp_path / "whole", embedder, initial_weights=0.5)
    with pytest.raises(RuntimeError, match="killed"):
        fit(tmp_path / "killed", embedder, initial_weights=0.5, before=[Dies(step, event)])
    again = fit(tmp_path / "killed", embedder, initial_weights=0.5, resume=True)
    assert weights(again.folder / "merged") == weights(whole.folder / "merged")
    assert table(again)["rows"] == table(whole)["rows"]
    assert not (again.folder / "initial").exists()


def test_the_table_changes_no_weight(embedder, tmp_path):
    with_table = fit(tmp_path / "with", embedder)
    without = fit(tmp_path / "without", embedder, initial_weights="ignore")
    for name in ("best", "last"):
        assert weights(with_table.folder / name) == weights(without.folder / name)


def test_a_table_that_cannot_be_made_does_not_fail_the_run(embedder, tmp_path, capsys):
    class Changes(Callback):
        def on_end(self, run):
            path = run.folder / "before.json"
            content = json.loads(path.read_text())
            content["tasks"]["sts-mini-test"]["data"]["sha256"] = "other"
            path.write_text(json.dumps(content))

    run = fit(tmp_path, embedder, before=[Changes()])
    assert run.progress.finished
    assert "cannot be compared: the rows of sts-mini-test have changed" in capsys.readouterr().out
    assert not (run.folder / "helped.json").exists()


def test_two_processes_merge_and_compare_as_one(two_processes, embedder, tmp_path):
    init = {"path": str(write_triplets(tmp_path))}
    trainer = {"initial_weights": 0.5, "max_steps": 4}
    evaluator = {"class_path": "cse.evaluation.STSEvaluator", "init_args": {"tasks": TASKS, "precision": "fp32"}}
    encoder = {"backbone": embedder, **NO_DROPOUT}
    recipe = write_recipe(tmp_path, "Triplets", init, encoder, trainer=trainer, evaluator=evaluator)
    folders = [trained_by(group, recipe, tmp_path / f"{group is None}") for group in (None, two_processes)]
    one, two = (load_file(folder / "merged" / "model.safetensors") for folder in folders)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5)
    tables = [json.loads((folder / "helped.json").read_text())["rows"] for folder in folders]
    for a, b in zip(*tables, strict=True):
        assert (a["checkpoint"], a["task"]) == (b["checkpoint"], b["task"])
        assert b["before"] == pytest.approx(a["before"], abs=1e-6)


# What distillation kept
@pytest.fixture
def teacher(tiny_bert, tmp_path):
    Encoder(tiny_bert, pooler="mean").save(tmp_path / "teacher")
    return str(tmp_path / "teacher")


def distilling(folder, teacher):
    """A run that teaches the first layer of a teacher."""
    return make_run(
        folder,
        teacher,
        encoder=Encoder(teacher, layers=1),
        collator=TextViews(max_length=12, views=1),
        objective=FeatureDistillation(teacher=FrozenEncoder(source=teacher)),
    )


def test_a_run_ends_with_teacher_and_student(teacher, tmp_path, capsys):
    run = distilling(tmp_path / "run", teacher)
    run.callbacks = [Distilled()]
    Trainer(run).fit()
    found = json.loads((run.folder / DISTILLED).read_text())
    assert (found["teacher"]["layers"], found["student"]["layers"]) == (2, 1)
    places = (teacher, str(run.folder / "best"))
    scores = [Spread()(Encoder.load(place))["spread"] for place in places]
    assert [found[side]["dev"] for side in ("teacher", "student")] == pytest.approx(scores, rel=1e-6)
    assert found["kept"] == pytest.approx(scores[1] / scores[0], rel=1e-6)
    weights = [
        sum(p.numel() for p in Encoder.load(place).parameters()) for place in (teacher, str(run.folder / "best"))
    ]
    assert found["smaller"] == pytest.approx(weights[0] / weights[1])
    out = capsys.readouterr().out
    assert f"{found['smaller']:.2f} times smaller, {found['faster']:.2f} times faster" in out
    assert "teacher_cosine" in metrics(run.folder)[-1]


def test_other_runs_have_no_such_table(tiny_bert, tmp_path, capsys):
    run = make_run(tmp_path / "run", tiny_bert, max_steps=1)
    run.callbacks = [Distilled()]
    Trainer(run).fit()
    assert not (run.folder / DISTILLED).exists()


HELD_OUT = {"class_path": "cse.evaluation.HeldOut", "init_args": {"share": 0.2, "precision": "fp32"}}
MINED = {
    "class_path": "cse.mining.refresh.RefreshNegatives",
    "init_args": {"miner": {"class_path": "cse.mining.miners.TopK"}, "k": 2},
}


class Texts(Callback):
    """The texts that the run can train on, and a death at a step."""

    def __init__(self, dies_at=None):
        self.dies_at, self.trained, self.scored = dies_at, set(), set()

    def on_start(self, run):
        self.trained = {same_text_key(text) for text in (*run.data.unique_texts(), *run.source.texts())}
        self.scored = {same_text_key(t) for rows in run.evaluator.texts().values() for row in rows for t in row}

    def on_step(self, run, metrics):
        if run.progress.step == self.dies_at:
            raise RuntimeError("killed")


@pytest.fixture
def recipe(tiny_bert, tmp_path):
    def write(**parts):
        path = str(write_triplets(tmp_path, rows=40))
        encoder = {"backbone": tiny_bert, **NO_DROPOUT}
        return write_recipe(tmp_path, "Triplets", {"path": path}, encoder, evaluator=HELD_OUT, **parts)

    return write


def test_no_text_of_a_held_out_row_is_trained_on(recipe, tmp_path, capsys, caplog):
    caplog.set_level("INFO", logger="cse")
    watch = Texts()
    run = train(recipe(), run_dir=tmp_path / "run", callbacks=[watch])
    assert len(run.data) == 32
    assert watch.scored
    assert not watch.scored & watch.trained
    report = read_json(tmp_path / "run" / "data.json")
    assert report["rows"] == 32
    assert report["left_out"] == {"held_out": 8}
    assert report["overlap"]["held-out"]["shared_texts"] == 0
    assert report["overlap"]["held-out"]["texts"] == 16
    assert "8 of 40 rows held out (20.0%): retrieval" in capsys.readouterr().out
    assert sum("are told apart" in line for line in caplog.messages) == 1


def test_a_killed_run_ends_as_the_unbroken_one(recipe, tmp_path):
    path = recipe(negatives=MINED)
    train(path, run_dir=tmp_path / "whole")
    with pytest.raises(RuntimeError, match="killed"):
        train(path, run_dir=tmp_path / "cut", callbacks=[Texts(dies_at=3)])
    watch = Texts()
    resume(tmp_path / "cut", callbacks=[watch])
    assert not watch.scored & watch.trained
    assert_same(tmp_path / "cut", tmp_path / "whole")


def test_a_pool_of_negatives_has_no_held_out_text(recipe, tmp_path):
    path = recipe(negatives=MINED)
    pool = tmp_path / "pool.txt"
    lines = (tmp_path / "triplets.tsv").read_text().splitlines()[1:]
    pool.write_text("\n".join(text for line in lines for text in line.split("\t")))
    watch = Texts()
    train(path, [f"--negatives.pool={pool}"], run_dir=tmp_path / "run", callbacks=[watch])
    assert watch.scored
    assert not watch.scored & watch.trained


def test_rows_in_memory_are_taken_again_after_a_resume(recipe, tiny_bert, tmp_path):
    lines = (write_triplets(tmp_path, rows=40)).read_text().splitlines()[1:]
    rows = [tuple(line.split("\t")) for line in lines]
    path = recipe()
    train(path, run_dir=tmp_path / "file")
    with pytest.raises(RuntimeError, match="killed"):
        train(path, run_dir=tmp_path / "cut", parts={"data": rows}, callbacks=[Texts(dies_at=3)])
    resume(tmp_path / "cut")
    assert weights(tmp_path / "cut" / "last") == weights(tmp_path / "file" / "last")
