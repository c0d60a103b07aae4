"""Training from Python: `cse.train` and `cse.resume` make the same runs as `cse train`, and `TrainedRun` reads one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cse.errors import UserError
from cse.files import json_lines

if TYPE_CHECKING:
    from cse.data.datasets import Dataset
    from cse.encoder.model import Encoder
    from cse.interfaces import Callback, Collator, Evaluator, Objective, RowSource, Sampler
    from cse.training.run import Progress

Part = str | Mapping[str, Any]  # a part in the form of a recipe


class TrainedRun:
    """A run that is on disk. `cse.train` returns one, and `cse.TrainedRun("runs/mine")` opens an earlier one.

    Args:
        folder: The run's folder.
        stopped_by: The signal that stopped it in this process.

    Attributes:
        folder: The run's folder, as `cse train` writes it.
        best: The checkpoint with the best dev score; without an evaluator, the last one.
        last: The checkpoint of the last step, once the run is finished.
        stopped_by: The number of the signal that stopped it in this process, such as that of Ctrl-C; 0 for none.

    Raises:
        UserError: The folder is not that of a run.
    """

    def __init__(self, folder: str | Path, *, stopped_by: int = 0) -> None:
        self.folder, self.stopped_by = Path(folder), stopped_by
        self.best, self.last = self.folder / "best", self.folder / "last"
        if not (self.folder / "recipe.yaml").is_file():
            raise UserError(
                f"run {self.folder} is not a run, since {self.folder / 'recipe.yaml'} does not exist\n"
                "fix: give the folder that training printed as `run`"
            )

    def __repr__(self) -> str:
        """A text such as `TrainedRun('runs/mine', finished, step 12, dev 70.19 -> 74.99)`."""
        progress = self._progress
        state = "finished" if progress.finished else "not finished"
        scores = f", dev {progress.first:.2f} -> {progress.best:.2f}" if self.scores else ""
        return f"TrainedRun({str(self.folder)!r}, {state}, step {progress.step}{scores})"

    @property
    def scores(self) -> dict[str, float]:
        """Dev scores: `first`, before training, and `best`, at `best_step`. Empty without an evaluator."""
        p = self._progress
        if p.first is None or p.best is None or p.best_step is None:
            return {}
        return {"first": p.first, "best": p.best, "best_step": p.best_step}

    @property
    def finished(self) -> bool:
        """Tell whether the run is complete; otherwise `cse.resume` continues it."""
        return self._progress.finished

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """One record for each evaluation: `step`, `loss`, `dev` and so on, from metrics.jsonl."""
        path = self.folder / "metrics.jsonl"
        return json_lines(path) if path.is_file() else []

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder of the best checkpoint: the one that is scored and published. It is loaded on first use.

        The weights of the last step are `cse.Encoder.load(run.last)`.

        Raises:
            UserError: The run has saved no checkpoint yet.
        """
        from cse.encoder.device import choose
        from cse.encoder.model import Encoder

        return Encoder.load(str(self.checkpoint)).to(choose("auto"))

    def __fspath__(self) -> str:
        """The path of `checkpoint`: wherever a model is asked for, a run stands for its best one."""
        return str(self.checkpoint)

    @property
    def checkpoint(self) -> Path:
        """`best`, if it exists.

        Raises:
            UserError: The run has saved no checkpoint yet.
        """
        if not self.best.is_dir():
            raise UserError(f"run {self.folder} has no checkpoint yet\nfix: cse.resume({str(self.folder)!r})")
        return self.best

    @property
    def _progress(self) -> Progress:
        from cse.training.checkpoint import load_progress
        from cse.training.run import Progress

        state = self.folder / "state"
        return load_progress(state) if state.is_dir() else Progress()


def train(
    recipe: str | Path | Mapping[str, Any] | None = None,
    *,
    data: str | Path | Sized | Dataset | None = None,
    encoder: str | Path | Mapping[str, Any] | Encoder | None = None,
    objective: Part | Objective | None = None,
    collator: Part | Collator | None = None,
    evaluator: Part | Evaluator | None = None,
    sampler: Part | Sampler | None = None,
    negatives: Part | RowSource | None = None,
    callbacks: Sequence[Callback] = (),
    steps: int | None = None,
    seed: int | None = None,
    run_dir: str | Path | None = None,
    resumes: bool = False,
    overrides: Mapping[str, Any] | Sequence[str] = (),
) -> TrainedRun:
    """Train a recipe, with parts of it replaced by those that are given.

    A part may be the path of a class, a mapping with `class_path` and `init_args` as in a recipe, or an object. The run
    has the same folder as with `cse train`. Data that a recipe cannot name are saved in that folder; objects that it
    cannot name must be given again to `resume`.

    Args:
        recipe: The name of a recipe, a path that ends in .yaml, or the content of such a file. None: the parts define
            everything.
        data: Rows for the recipe's data class: a list of strings, of tuples in the order of its columns, or of dicts; a
            pandas or polars DataFrame; a `datasets.Dataset`; a path, `asset:NAME` or Hub id. Or a data set, such as
            `cse.Pairs(frame)`. None: the recipe's.
        encoder: A model to start from: a folder, `asset:NAME` or Hub id. Or an encoder. None: the recipe's.
        objective: The training loss.
        collator: Makes batches of rows.
        evaluator: Scores the encoder, to select the best checkpoint.
        sampler: Chooses which rows share a batch.
        negatives: Adds rows or texts that change during training, such as mined negatives.
        callbacks: Watchers of the run.
        steps: Optimizer steps; the option `trainer.max_steps`.
        seed: The seed of everything that is drawn at random.
        run_dir: The folder to write. None: `runs/RECIPE/TIME-sSEED`.
        resumes: Whether to resume the run in `run_dir` if it holds one, which must be of the same recipe and options.
        overrides: Other options of the recipe: `{"trainer.batch_size": 32}`, `{"trainer": {"batch_size": 32}}`, or as
            on the command line: `["--trainer.batch_size=32"]`.

    Returns:
        The run. After Ctrl-C its `finished` is False, and `resume` continues it.

    Raises:
        UserError: The recipe cannot be trained, or the folder has a run already. Nothing is written.
        FloatingPointError: The loss is not finite.
    """
    from cse.console import quiet
    from cse.recipe.objects import as_options
    from cse.training import start

    quiet()
    parts = _parts(data, encoder, objective, collator, evaluator, sampler, negatives)
    more = {"trainer.max_steps": steps, "seed": seed}
    given = {name: value for name, value in more.items() if value is not None}
    options = [*as_options(overrides, {}), *as_options(given, {})]
    run = start.train(recipe, options, run_dir, parts=parts, callbacks=callbacks, resumes=resumes)
    return TrainedRun(run.folder, stopped_by=run.interrupted)


def resume(
    run_dir: str | Path | TrainedRun,
    *,
    data: Dataset | None = None,
    encoder: Encoder | None = None,
    objective: Objective | None = None,
    collator: Collator | None = None,
    evaluator: Evaluator | None = None,
    sampler: Sampler | None = None,
    negatives: RowSource | None = None,
    callbacks: Sequence[Callback] = (),
    trusted_modules: Sequence[str] = (),
) -> TrainedRun:
    """Resume a run that was interrupted or killed; it ends as if nothing had interrupted it.

    Args:
        run_dir: The run, or its folder.
        data: This and the others: the objects that the run was started with, if its recipe cannot name them.
        encoder: See `data`.
        objective: See `data`.
        collator: See `data`.
        evaluator: See `data`.
        sampler: See `data`.
        negatives: See `data`.
        callbacks: Watchers of the run.
        trusted_modules: Modules besides this package whose classes the run's recipe may name.

    Raises:
        UserError: The folder is not that of a run, its state is damaged, or an object is missing.
        FloatingPointError: The loss is not finite.
    """
    from cse.console import quiet
    from cse.files import require_name
    from cse.training import start

    quiet()
    require_name(folder := run_dir.folder if isinstance(run_dir, TrainedRun) else run_dir, "run_dir")
    parts = _parts(data, encoder, objective, collator, evaluator, sampler, negatives)
    run = start.resume(Path(folder), parts=parts, callbacks=callbacks, trusted=trusted_modules)
    return TrainedRun(run.folder, stopped_by=run.interrupted)


def _parts(*values: object) -> dict[str, object]:
    """The parts that are given, by name."""
    from cse.recipe.schema import COMPONENTS

    names = ("data", "encoder", "objective", "collator", "evaluator", "sampler", "negatives")
    assert set(names) == set(COMPONENTS)
    return {name: value for name, value in zip(names, values, strict=True) if value is not None}
