"""Small runs on a tiny backbone, for tests of the trainer."""

import itertools
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from cse import Callback, Encoder, Evaluator, Run, Settings, SimCSE, Texts, TextViews, Trainer, Triplets, cli
from cse.seeding import seed_dropout
from tests.conftest import WORDS

TIMINGS = {"seconds", "eval_seconds", "sentences_per_s", "steps_per_s", "peak_mb", "graphs"}


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
MASKED = {
    "class_path": "cse.data.Masked",
    "init_args": {
        "probability": 0.4,
        "views": {"class_path": "cse.data.TextViews", "init_args": {"max_length": 12, "views": 1}},
    },
}
NO_DROPOUT = {"pooler": "mean", "dropout": {"attention": 0.0, "hidden": 0.0}}


class Strikes(Callback):
    """Sends a signal to this process at a moment of a run, once: a resumed run has the same recipe.

    Args:
        step: The step of the moment.
        marker: A file that says that it has happened.
        event: `step` or `eval`.
        signal_name: The signal.
        times: How often it is sent.
        run: The name of the folder of the run; any, if empty.
    """

    def __init__(
        self, step: int, marker: str, event: str = "step", signal_name: str = "SIGINT", times: int = 1, run: str = ""
    ) -> None:
        self.moment, self.marker, self.run = (event, step), marker, run
        self.signal, self.times = getattr(signal, signal_name), times

    def _maybe(self, event, run):
        wanted = (event, run.progress.step) == self.moment and self.run in ("", run.folder.name)
        if wanted and not os.path.exists(self.marker):
            open(self.marker, "w").close()
            for _ in range(self.times):
                signal.raise_signal(self.signal)

    def on_step(self, run, metrics):
        self._maybe("step", run)

    def on_eval(self, run, metrics):
        self._maybe("eval", run)


def write_recipe(
    folder: Path, data: str, init: dict, encoder: dict, *, seed=5, trainer=(), strikes=None, **parts
) -> str:
    """A recipe of SimCSE on a data class with these arguments, `tiny.yaml`; `parts` add to it or replace a part.

    It has a callback `Strikes` if there are arguments for one.
    """
    recipe = {
        "seed": seed,
        "data": {"class_path": f"cse.data.{data}", "init_args": init},
        "collator": {"class_path": "cse.data.TextViews", "init_args": {"max_length": 12}},
        "encoder": {"class_path": "cse.encoder.Encoder", "init_args": encoder},
        "objective": {"class_path": "cse.objectives.simcse.SimCSE"},
        "evaluator": {"class_path": "tests.runs.Spread"},
        "trainer": {**TRAINER, **dict(trainer)},
        "callbacks": [{"class_path": "tests.runs.Strikes", "init_args": strikes}] if strikes else [],
        **parts,
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return str(path)


def texts_recipe(folder: Path, backbone: str, **strikes) -> str:
    """Unsupervised SimCSE on the tiny backbone, with dropout."""
    folder.mkdir(parents=True, exist_ok=True)
    objective = {"class_path": "cse.objectives.simcse.SimCSE", "init_args": {"temperature": 0.05}}
    encoder, init = {"backbone": backbone, "head": "mlp"}, {"path": str(write_texts(folder))}
    return write_recipe(folder, "Texts", init, encoder, seed=3, objective=objective, strikes=strikes)


def triplets_recipe(folder: Path, backbone: str, **parts) -> str:
    """A run on triplets without dropout, which is the same on any number of processes but for rounding."""
    init = {"path": str(write_triplets(folder))}
    return write_recipe(folder, "Triplets", init, {"backbone": backbone, **NO_DROPOUT}, **parts)


def command(rank: int, *words: str) -> int:
    """The exit code of a command, on one of several processes."""
    os.environ["CSE_TRUSTED_MODULES"] = "tests"
    return cli.main(list(words))


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


def fitted(folder: Path, backbone: str, *, resume=False, callbacks=(), **options) -> Run:
    """A run of `make_run` that has ended."""
    run = make_run(folder, backbone, **options)
    run.callbacks = list(callbacks)
    return Trainer(run).fit(resume=resume)


class Dies(Callback):
    """Raises at a step, at an evaluation or at the end, as a kill would come."""

    def __init__(self, step, event="step"):
        self.step, self.event = step, event

    def _maybe(self, event, run):
        if event == self.event and run.progress.step == self.step:
            raise RuntimeError("killed")

    def on_step(self, run, metrics):
        self._maybe("step", run)

    def on_eval(self, run, metrics):
        self._maybe("eval", run)

    def on_end(self, run):
        self._maybe("end", run)


def assert_resumes(build: Callable[[Path], Run], folder: Path, dies: Callback | None = None) -> tuple[Run, Run]:
    """A run that is killed between two checkpoints and resumed logs and saves what an undisturbed one does, to the bit.

    Args:
        build: Makes a fresh run of at least 4 steps in a folder, with a checkpoint each 2 steps, as `make_run` does.
        folder: An empty folder.
        dies: Ends the killed run; in step 3 unless given.

    Returns:
        The undisturbed run and the resumed one.
    """
    whole = build(folder / "whole")
    Trainer(whole).fit()
    killed = build(folder / "killed")  # `make_run` seeds the weights that `Trainer` initializes
    killed.callbacks = [*killed.callbacks, dies or Dies(3)]
    with pytest.raises(RuntimeError, match="killed"):
        Trainer(killed).fit()
    again = build(folder / "killed")
    Trainer(again).fit(resume=(again.folder / "state").exists())
    assert_same(again.folder, whole.folder)
    return whole, again


def assert_same(run_folder: Path, other: Path) -> None:
    """Two runs have one log and the same checkpoints, to the bit."""
    assert metrics(run_folder) == metrics(other)
    for name in ("best", "last"):
        assert weights(run_folder / name) == weights(other / name)


def metrics(run_folder: Path) -> list[dict]:
    """metrics.jsonl without what differs from run to run by nature."""
    lines = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMINGS} for line in lines]


def weights(folder: Path) -> dict[str, bytes]:
    """Every file of a checkpoint."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
