"""What tests of training share: rows in memory, objectives that differ in one thing, runs by several processes."""

import itertools
from pathlib import Path

import pytest
import torch
import yaml

from cse import Pairs, ScoredPairs, SimCSE, Triplets, distributed
from tests.conftest import WORDS
from tests.runs import NO_DROPOUT, TRAINER, command, metrics, write_texts, write_triplets

ROOT = Path(__file__).resolve().parents[2]
TEXTS = [" ".join(words) for words in itertools.islice(itertools.permutations(WORDS, 4), 0, 9_000, 30)]


def nli(rows=24):
    return Triplets([tuple(TEXTS[3 * i : 3 * i + 3]) for i in range(rows)])


def qa(rows=40):
    return Pairs([(TEXTS[-2 * i - 1], TEXTS[-2 * i - 2]) for i in range(rows)])


def graded(rows=30):
    return ScoredPairs([(TEXTS[5 * i], TEXTS[5 * i + 7], (i % 5) / 4) for i in range(rows)])


MOCOSE = {
    **{"candidates": "keys", "key_head": "average", "schedule": "cosine", "asymmetric": True},
    **{"momentum": 0.75, "queue_size": 20, "queue_start": 3},
}


class Unweighted(SimCSE):
    """An objective that ignores weights."""

    weighs_rows = False


class WithHead(SimCSE):
    """An objective with weights of its own."""

    def setup(self, encoder):
        self.head = torch.nn.Linear(encoder.dim, encoder.dim)

    def forward(self, views, batch, ctx):
        moved = type(views).split(self.head(views.embedding), views.embedding, 1)
        return super().forward(moved, batch, ctx)


def part(name: str, **arguments) -> dict:
    """A part of a recipe."""
    return {"class_path": f"cse.{name}", "init_args": arguments}


def mixture_content(folder, backbone="backbone"):
    """A recipe of three sources, all of them files."""
    lines = ["\t".join([*row.texts, f"{row.score:g}"]) for row in graded()]
    (folder / "scored.tsv").write_text("\n".join(["sentence1\tsentence2\tscore", *lines]))
    sources = {
        "nli": {"data": part("data.Triplets", path=str(write_triplets(folder))), "weight": 2},
        "plain": {
            "data": part("data.Texts", path=str(write_texts(folder))),
            "collator": part("data.AugmentedViews", augmentations=[part("augment.WordDeletion", probability=0.3)]),
            "prompts": {"anchor": "query"},
            "batch_size": 12,
        },
        "graded": {
            "data": part("data.ScoredPairs", path=str(folder / "scored.tsv")),
            "objective": part("objectives.cosent.CoSENT", temperature=0.1),
        },
    }
    return {
        "seed": 5,
        "data": part("data.Mixture", sources=sources),
        "collator": part("data.TextViews", max_length=12),
        "encoder": part("encoder.Encoder", backbone=backbone, prompts={"query": "the "}, **NO_DROPOUT),
        "objective": part("objectives.simcse.SimCSE"),
        "evaluator": {"class_path": "tests.runs.Spread"},
        "trainer": dict(TRAINER),
    }


def mixture_file(folder, recipe):
    (folder / "mixture.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return str(folder / "mixture.yaml")


def share(rank, size):
    """This process's part of `size` things."""
    each = size // distributed.world_size()
    return slice(rank * each, (rank + 1) * each)


def gradients(learner):
    """The gradient of every weight that has one."""
    return {n: p.grad.clone() for n, p in learner.named_parameters() if p.grad is not None}


def assert_near(run: Path, other: Path, rel=1e-5) -> None:
    """Two runs have one log but for rounding."""
    for a, b in zip(metrics(other), metrics(run), strict=True):
        assert b == pytest.approx(a, rel=rel)


def trained_by(processes, recipe: str, folder: Path, *options: str, code=0) -> Path:
    """The folder of a run that ends with this code on all processes of a group, or, without a group, on this one."""
    words = ["train", recipe, "--run-dir", str(folder), *options]
    codes = [command(0, *words)] if processes is None else processes(command, *words)
    assert codes == [code] * len(codes)
    return folder
