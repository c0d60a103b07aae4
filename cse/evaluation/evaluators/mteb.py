"""Tasks of MTEB as an evaluator, through the adapter of `cse eval mteb`."""

from __future__ import annotations

import tempfile
from pathlib import Path

from cse.errors import UserError, require_package
from cse.evaluation.evaluator import MEAN, EvalResult, Measure, RowEvaluator
from cse.interfaces import SentenceEncoder

SCORE = "main_score"


class MTEB(RowEvaluator):
    """The main score x 100 of each task, and their mean. It has no interval, since mteb keeps no score of a row.

    Args:
        tasks: Names of tasks of mteb, separated by commas; our names of the seven STS tasks and their groups work, too.
        data: A folder with the rows of the STS tasks, which then come from there rather than from the Hub.
        precision: fp32, bf16, or auto: bf16 where native.
        check: Whether to refuse rows of STS tasks that are not the known sets.

    Attributes:
        name: The tasks, as they were named.

    Raises:
        UserError: A task is unknown, or mteb is not installed; when it is called: a task fails.
    """

    def __init__(self, tasks: str, *, data: str | None = None, precision: str = "auto", check: bool = True) -> None:
        require_package("mteb", extra="mteb", user="cse.evaluation.MTEB")
        from cse.evaluation.evaluators.mteb_adapter import get_tasks

        self.tasks, self.data, self.precision, self.check = tasks, data, precision, check
        self._tasks = get_tasks(tasks)
        if not self._tasks:
            raise UserError(f"evaluator.tasks is {tasks!r}, which names no task\nfix: name a task of mteb")
        self.name, self.primary = tasks, SCORE if len(self._tasks) == 1 else MEAN

    def measure(self, encoder: SentenceEncoder) -> list[EvalResult]:
        from cse.evaluation.evaluators import mteb_adapter
        from cse.evaluation.loading import Model

        found = []
        with tempfile.TemporaryDirectory(prefix="cse-mteb-") as scratch:
            adapted = mteb_adapter.Adapter(Model(encoder, "encoder", Path(scratch), "0" * 40, "cse"), self.precision)
            for task in self._tasks:
                name = task.metadata.name
                given = mteb_adapter.given(task, self.data, check=self.check)
                try:
                    summary = mteb_adapter.run_task(adapted, task, given, Path(scratch), "always")
                except mteb_adapter.Failed as error:
                    raise UserError(
                        f"evaluator: the task {name} of mteb failed: {error}\nfix: run other tasks"
                    ) from None
                measures = {SCORE: Measure(summary["main_score"], "", ())}
                about = {"main_score": task.metadata.main_score, "mteb_version": summary["mteb_version"]}
                found.append(EvalResult(name, "mteb", SCORE, measures, {}, "", "", given, about))
        return found
