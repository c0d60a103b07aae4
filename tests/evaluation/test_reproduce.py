"""None"""

import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from eval import bench, reproduce
from eval.outcome import judged_pairs, labeled_texts, ndcg, processor_seconds
from tests.refusals import refuses


def test_summary_by_hand():
    found = reproduce.summarize({42: 1.0, 43: 2.0, 44: 6.0}, {"low": 2.5, "high": 3.5})
    assert found["mean"] == 3
    assert found["sd"] == pytest.approx(7**0.5)  # squares 4, 1, 9 over two
    assert (found["min"], found["max"], found["verdict"]) == (1, 6, reproduce.PASS)
    assert reproduce.summarize({42: 4.0}, {"low": 2.5, "high": 3.5})["verdict"] == reproduce.OUTSIDE
    assert reproduce.summarize({42: 4.0}, {})["verdict"] == reproduce.NO_BAND


@pytest.mark.parametrize(
    ("expect", "overrides", "tasks", "said"),
    [
        ({}, [], None, "recipe r declares none"),
        ({"low": 1.0}, [], None, "recipe r declares none"),
        ({"tasks": "a", "low": 1.0, "high": 2.0}, [], "b", "is of a, and b is scored"),
        ({"tasks": "a", "low": 1.0, "high": 2.0}, ["--encoder=x"], "a", "as it is, and --encoder=x is given"),
        ({"tasks": "a", "low": 1.0, "high": 2.0}, [], "a", ""),
        ({"tasks": "a", "low": 1.0, "high": 2.0}, [], None, ""),
    ],
)
def test_a_band_is_of_the_recipe_as_it_is_and_of_its_tasks(expect, overrides, tasks, said):
    band, why = reproduce.band_of(SimpleNamespace(name="r", expect=expect), overrides, tasks)
    assert said in why
    assert bool(band) == (not said) == (not why)
    shown = reproduce.lines(reproduce.summarize({42: 5.0}, band, why))[-1]
    assert shown == (f"no band   {why}" if why else "OUTSIDE   expected 1.0 to 2.0")


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Training and scoring replaced by files, and a record of what was done."""
    done = []

    def load(name, overrides):
        return SimpleNamespace(
            name=name, text=f"{name} {overrides}", expect={"tasks": "sts-mini-dev", "low": 50, "high": 60}
        )

    def train(command, check):
        assert not check
        resumed = "--resume" in command
        folder = tmp_path / command[command.index("--resume" if resumed else "--run-dir") + 1]
        done.append(("resume" if resumed else "train", folder.name))
        (folder / "best").mkdir(parents=True, exist_ok=True)
        (folder / "best" / "model.safetensors").write_text(folder.name)
        (folder / "state").mkdir(exist_ok=True)
        (folder / "state" / "finished").touch()
        (folder / "env.json").write_text('{"torch": "x"}')
        (folder / "recipe.yaml").write_text(f"r ['--seed={folder.name[-2:]}']")
        return SimpleNamespace(returncode=0)

    def score(checkpoint, out):
        done.append(("score", checkpoint.parent.name))
        model, score = {"name": "best", "sha256": reproduce.model_hash(checkpoint)}, float(checkpoint.parent.name[-2:])
        average = {"requested": "sts", "metric": "spearman", "value": score, "all": {"spearman": score}}
        content = {"schema": 2, "model": model, "tasks": {}, "missing": {}, "average": average}
        out.write_text(json.dumps(content))

    monkeypatch.setattr(reproduce, "load", load)
    monkeypatch.setattr(reproduce.subprocess, "run", train)
    monkeypatch.setattr(reproduce, "load_progress", lambda at: SimpleNamespace(finished=(at / "finished").exists()))
    return SimpleNamespace(done=done, runs=tmp_path, go=lambda n: reproduce.run("r", n, [], None, tmp_path, score))


def test_finished_seeds_are_not_run_again(world):
    assert world.go(2)["mean"] == 42.5
    assert world.done == [(what, f"reproduce-s{seed}") for seed in (42, 43) for what in ("train", "score")]
    world.done.clear()
    found = world.go(3)
    assert world.done == [("train", "reproduce-s44"), ("score", "reproduce-s44")]
    assert found["verdict"] == reproduce.OUTSIDE
    assert json.loads((world.runs / "r" / "reproduce.json").read_text())["environment"] == {"torch": "x"}


def test_an_interrupted_run_goes_on_and_other_weights_are_scored_again(world):
    world.go(1)
    (world.runs / "r" / "reproduce-s42" / "state" / "finished").unlink()
    world.done.clear()
    world.go(1)
    assert world.done == [("resume", "reproduce-s42")]  # the same weights came out, so the score stands
    (world.runs / "r" / "reproduce-s42" / "best" / "model.safetensors").write_text("other")
    world.go(1)
    assert world.done[1:] == [("score", "reproduce-s42")]


def test_other_settings_are_refused(world):
    world.go(1)
    (world.runs / "r" / "reproduce-s42" / "recipe.yaml").write_text("other")
    refuses("holds a run of other settings", world.go, 1)


class Angles:
    """A model whose vectors lie at the angle, in degrees, that a text begins with."""

    def encode(self, texts, normalize_embeddings):
        angles = np.radians([float(text.split()[0]) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def table(path, *rows):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join("\t".join(row) + "\n" for row in rows))


def test_labeled_texts_search_for_their_label_among_the_other_texts(tmp_path):
    train = [("a", "0 x"), ("b", "90 x"), ("a", "1 x"), ("a", "2 x"), ("c", "5 x")]
    table(tmp_path / "train.tsv", ("label", "text"), *train)
    table(tmp_path / "test.tsv", ("label", "text"), ("a", "0"), ("a", "30"), ("b", "10"), ("c", "80"), ("b", "50"))
    read = labeled_texts(tmp_path)
    label = {text: label for label, text in train}
    assert sorted(first for first, _ in read.pairs) == ["0 x", "1 x", "2 x"]  # b and c have one text each
    assert all(first != second and label[first] == label[second] for first, second in read.pairs)
    assert [row["label"] for row in read.given] == ["a", "b", "a", "a", "c"]
    assert list(read.relevant) == ["0", "1", "2", "4"]  # the text of c has none to find
    # 0 finds 10, then 30; 30 finds 10 or 50, then the other, then 0; 10 finds 0, 30, 50; 50 finds 30, 80, 10.
    second, third = 100 / np.log2(3), 100 / np.log2(4)
    found = ndcg(Angles(), read)
    assert found[0] == pytest.approx(second)
    assert found[1:] == pytest.approx([third, third, third])


def test_a_folder_of_beir_gives_its_training_pairs_and_test_queries(tmp_path):
    for name, texts in (("queries", {"q": "0", "r": "40"}), ("corpus", {"d": "10", "e": "20", "f": "50"})):
        lines = [json.dumps({"_id": key, "text": text}) + "\n" for key, text in texts.items()]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    table(tmp_path / "qrels" / "train.tsv", ("q", "d", "s"), ("r", "f", "1"), ("r", "d", "0"))
    table(tmp_path / "qrels" / "test.tsv", ("q", "d", "s"), ("q", "e", "1"), ("q", "d", "1"))
    read = judged_pairs(tmp_path)
    assert read.pairs == [("40", "50")]
    assert read.given == [{"question": "40", "answer": "50"}]
    assert read.relevant == {"q": {"d", "e"}}
    assert ndcg(Angles(), read) == pytest.approx([100.0])


def test_the_seconds_of_children_count():
    before = processor_seconds()
    busy = "import time\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-c", busy], check=True)
    assert processor_seconds() - before > 0.25


def test_ratios_are_medians_of_rounds():
    seconds = {"ours": [1, 2, 4], "mteb": [3, 4, 12], "senteval": [5, 5, 5], "ours bf16": [0.5, 1, 2]}
    scores = {"ours": {"T": 70.0}, "mteb": {"T": 70.01}, "senteval": {"T": 69.9}, "ours bf16": {"T": 70.0}}
    processor = {name: [2, 2, 2] for name in seconds} | {"mteb": [6, 7, 8], "ours": [3, 4, 4]}
    found = bench.summary(seconds, processor, scores, default="ours bf16")
    assert found["eval.speedup_mteb"] == 3
    assert found["eval.speedup_senteval"] == 2.5
    assert found["eval.speedup_bf16"] == 2
    assert found["eval.score_apart"]["senteval"] == pytest.approx(0.1)
    assert found["eval.default"] == {
        "precision": "bf16",
        "tasks": ["T"],
        "score_apart": pytest.approx(0.01),
        "speedups": [6, 4, 6],  # mteb in float32 against ours in bfloat16
        "processor_speedups": [3, 3.5, 4],
        "fp32_processor_speedups": [2, 1.75, 2],
    }
    plain = bench.summary(seconds, processor, scores, default="ours")["eval.default"]
    assert (plain["precision"], plain["speedups"]) == ("fp32", found["eval.speedups_mteb"])


def test_other_benchmarks_numbers_stay(tmp_path):
    out = tmp_path / "bench.json"
    out.write_text(json.dumps({"train.speedup": 2.0, "eval.speedup_mteb": 1.0}))
    bench.merge({"eval.speedup_mteb": 3.0}, out)
    assert json.loads(out.read_text()) == {"train.speedup": 2.0, "eval.speedup_mteb": 3.0}
