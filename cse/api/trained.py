"""A trained run, read from its folder: scores, checkpoints, curves, and the next steps."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cse.errors import UserError
from cse.files import json_lines

if TYPE_CHECKING:
    from cse.encoder.model import Encoder
    from cse.training.checkpoint import Progress


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
        from cse.training.checkpoint import Progress, load_progress

        state = self.folder / "state"
        return load_progress(state) if state.is_dir() else Progress()
