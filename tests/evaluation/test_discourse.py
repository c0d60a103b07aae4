"""DiscoEval: the oracle's features and accuracies, properties, and the way through `cse eval`."""

import json

import numpy as np
import pytest

from cse.cli import main
from cse.evaluation.evaluators import transfer
from cse.evaluation.evaluators.sts_rows import Missing
from tests.cases import ORACLES, OWN, files, settings
from tests.refusals import refuses

OURS = ("SP", "BSO", "DC", "SSP")


def by_words(vectors):
    """A text is the mean of its words' vectors; wN has row N."""

    def embed(texts):
        return np.stack([vectors[[int(word[1:]) for word in text.split()]].mean(0) for text in texts])

    return embed


@pytest.mark.parametrize("file", files("discoeval*.npz"))
def test_every_task_of_the_oracle(file):
    """discoeval_tasks has the tasks of the entry `tasks`, and its texts are in discoeval_data; a suffix is of both."""
    data, case = np.load(ORACLES / file), file.removeprefix("discoeval_").removesuffix(".npz")
    end = case.removeprefix("tasks")
    folder = ORACLES / f"discoeval_data{end}"
    folder = folder if folder.is_dir() else ORACLES / "discoeval_data"
    about = settings(f"discoeval{end}" if (ORACLES / f"discoeval{end}.json").is_file() else "discoeval")
    tasks = about.get(case) or about["tasks"]
    embed = by_words(data["word_vectors"].astype(np.float64))
    names = [name for name in tasks if name.startswith(OURS)]
    assert names
    for name in names:
        task, wanted = transfer.load(name, str(folder)), tasks[name]
        assert {s.replace("dev", "valid"): len(rows) for s, rows in task.splits.items()} == wanted["rows"]
        for split in ("train", "test"):
            x, y = transfer.features(task.splits[split], transfer.specs("discoeval")[name]["features"], embed)
            assert x.shape[1] == wanted["features"]
            for row, label in zip(data[f"{name}_{split}_x"], data[f"{name}_{split}_y"], strict=True):
                nearest = np.abs(x - row).max(1)  # BSO's rows are in another order
                assert nearest.min() < 1e-6
                assert y[nearest.argmin()] == str(label)
        found = transfer.score(task, embed)
        assert (found.test, found.dev) == pytest.approx((wanted["sklearn"]["test"], wanted["sklearn"]["dev"]), abs=0.01)


def test_names_and_missing_rows(tmp_path):
    assert transfer.split_names("discoeval")[1] == list(transfer.specs("discoeval"))
    assert transfer.split_names("spwiki,MR,STSB-dev") == ("STSB-dev", ["SPwiki", "MR"])
    with pytest.raises(Missing, match="SP/wiki"):
        transfer.load("SPwiki", str(tmp_path))
    assert list(transfer.Transfer(["DCchat"], str(tmp_path)).missing) == ["DCchat"]
    (tmp_path / "SSP" / "abs").mkdir(parents=True)
    for file in transfer.SPLITS.values():
        (tmp_path / "SSP" / "abs" / file).write_text("1 without a tab\n")
    refuses(r"train\.txt", transfer.load, "SSPabs", str(tmp_path))


def test_the_command(tiny_bert, tmp_path):
    out = tmp_path / "r.json"
    data = ["--tasks", "BSOwiki,SSPabs", "--data", str(OWN / "discoeval_data")]
    assert main(["eval", tiny_bert, *data, "--out", str(out), "--device", "cpu"]) == 0
    found = json.loads(out.read_text())["transfer"]
    assert list(found) == ["BSOwiki", "SSPabs"]
    assert all(0 <= task["nearest_mean"] <= 100 for task in found.values())
