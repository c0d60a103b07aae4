"""What one does with a run: score, compare, encode, mine, publish."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cse
from tests.publish.conftest import elsewhere
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


# -- The package -------------------------------------------------------------------------------------------------------


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
