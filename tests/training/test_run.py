"""A run's folder belongs to one process at a time."""

from types import SimpleNamespace

import pytest
from filelock import FileLock

from cse.errors import UserError
from cse.recipe import Recipe
from cse.training.callbacks import RunFiles
from cse.training.trainer import Trainer
from tests.runs import make_run


def _run(folder, backbone):
    run = make_run(folder, backbone)
    recipe = Recipe("test", SimpleNamespace(seed=7), "seed: 7\n", None)
    run.callbacks = [RunFiles(recipe, run.folder)]
    return run


def test_a_folder_in_use_is_refused_and_left_as_it_is(tiny_bert, tmp_path):
    first = _run(tmp_path, tiny_bert)
    Trainer(first).fit()
    log = (first.folder / "metrics.jsonl").read_bytes()
    second = _run(tmp_path, tiny_bert)
    with FileLock(first.folder / ".lock"), pytest.raises(UserError, match="another process"):
        Trainer(second).fit(resume=True)
    assert (first.folder / "metrics.jsonl").read_bytes() == log


def test_it_is_free_again_after_the_run(tiny_bert, tmp_path):
    run = _run(tmp_path, tiny_bert)
    Trainer(run).fit()
    with FileLock(run.folder / ".lock", timeout=0):
        pass
