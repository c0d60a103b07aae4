"""Small runs on a tiny backbone, for tests of the trainer."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from cse.data.collators import TextViews
from cse.data.datasets import Texts, Triplets
from cse.encoder.model import Encoder
from cse.interfaces import Evaluator
from cse.objectives.simcse import SimCSE
from cse.seeding import seed_dropout
from cse.training.callbacks import Callback
from cse.training.run import Run
from cse.training.settings import Settings
from tests.conftest import WORDS

TIMINGS = {"seconds", "eval_seconds", "sentences_per_s", "steps_per_s", "peak_mb", "teacher_share", "graphs"}
TIMINGS |= {"own_s_median", "own_s_slowest", "slowest_process"}


class Spread(Evaluator):
    """A score that moves with every weight: how far apart two sentences are."""

    primary = "spread"

    def __call__(self, encoder):
        a, b = encoder.encode(["the cat sat", "dog ran fast"])
        return {"spread": float(((a - b) ** 2).sum())}


def write_texts(folder: Path, rows: int = 48) -> Path:
    path = folder / "texts.txt"
    path.write_text(
        "\n".join(" ".join(words) for words in itertools.islice(itertools.permutations(WORDS, 5), 0, rows * 7, 7))
    )
    return path


def write_triplets(folder: Path, rows: int = 24) -> Path:
    path = folder / "triplets.tsv"
    texts = write_texts(folder, rows * 3).read_text().splitlines()
    lines = ["\t".join(texts[i : i + 3]) for i in range(0, rows * 3, 3)]
    path.write_text("premise\tentailment\tcontradiction\n" + "\n".join(lines))
    return path


TRAINER = {
    "batch_size": 8,
    "max_steps": 6,
    "learning_rate": 1e-3,
    "eval_every": 2,
    "precision": "fp32",
    "device": "cpu",
}
NO_DROPOUT = {"pooler": "mean", "dropout": {"attention": 0.0, "hidden": 0.0}}


def write_recipe(folder: Path, data: str, init: dict, encoder: dict, *, seed=5, trainer=(), **parts) -> str:
    """A recipe of SimCSE on a data class with these arguments, `tiny.yaml`; `parts` add to it or replace a part."""
    recipe = {
        "seed": seed,
        "data": {"class_path": f"cse.data.{data}", "init_args": init},
        "collator": {"class_path": "cse.data.TextViews", "init_args": {"max_length": 12}},
        "encoder": {"class_path": "cse.encoder.Encoder", "init_args": encoder},
        "objective": {"class_path": "cse.objectives.simcse.SimCSE"},
        "evaluator": {"class_path": "tests.runs.Spread"},
        "trainer": {**TRAINER, **dict(trainer)},
        **parts,
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return str(path)


def make_run(
    folder: Path,
    backbone: str,
    *,
    triplets=False,
    encoder=None,
    objective=None,
    collator=None,
    evaluator=True,
    seed=7,
    **trainer,
):
    """A run that is ready to fit."""
    folder.mkdir(parents=True, exist_ok=True)
    seed_dropout(seed, "init")
    return Run(
        name="test",
        folder=folder / "run",
        seed=seed,
        data=Triplets(str(write_triplets(folder))) if triplets else Texts(str(write_texts(folder))),
        collator=collator or TextViews(max_length=12),
        encoder=encoder or Encoder(backbone, head="mlp"),
        objective=objective or SimCSE(),
        evaluator=Spread() if evaluator else None,
        settings=Settings(**{**TRAINER, **trainer}),
    )


class Dies(Callback):
    """Raises after a step, as a kill would come."""

    def __init__(self, step):
        self.step = step

    def on_step(self, run, metrics):
        if run.progress.step == self.step:
            raise RuntimeError("killed")


def assert_resumes(build: Callable[[Path], Run], folder: Path) -> None:
    """A run that is killed between two checkpoints and resumed logs and saves what an undisturbed one does, to the bit.

    Args:
        build: Makes a fresh run of at least 4 steps in a folder, with a checkpoint each 2 steps, as `make_run` does.
        folder: An empty folder.
    """
    from cse.training.trainer import Trainer

    whole = build(folder / "whole")
    Trainer(whole).fit()
    killed = build(folder / "killed")  # `make_run` seeds the weights that `Trainer` initializes
    killed.callbacks = [Dies(3)]
    with pytest.raises(RuntimeError, match="killed"):
        Trainer(killed).fit()
    again = build(folder / "killed")
    Trainer(again).fit(resume=True)
    assert metrics(again.folder) == metrics(whole.folder)
    assert weights(again.folder / "last") == weights(whole.folder / "last")


def metrics(run_folder: Path) -> list[dict]:
    """metrics.jsonl without what differs from run to run by nature."""
    lines = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMINGS} for line in lines]


def weights(folder: Path) -> dict[str, bytes]:
    """Every file of a checkpoint."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
