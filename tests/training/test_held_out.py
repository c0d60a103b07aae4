"""A run whose evaluator takes rows out of its training data."""

import pytest

from cse.data.reading.texts import same_text_key
from cse.files import read_json
from cse.interfaces import Callback
from cse.training.start import resume, train
from tests.runs import NO_DROPOUT, assert_same, weights, write_recipe, write_triplets

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
