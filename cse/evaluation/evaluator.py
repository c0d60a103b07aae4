"""The evaluator that training uses: the harness itself, on data read once."""

from __future__ import annotations

import contextlib
import copy

from cse.errors import UserError
from cse.evaluation import sources, suite, transfer_data
from cse.evaluation.finding import Answer, Finding, Measuring
from cse.evaluation.harness import read_data, score_data
from cse.evaluation.sources import Missing
from cse.interfaces import SentenceEncoder


class STSEvaluator(Measuring):
    """Spearman x 100 ("all") of each task, and their average as `dev`.

    Args:
        tasks: Names of tasks and groups, separated by commas.
        data: A folder with their rows; None: CSE_DATA, the Hub, or the shipped sets.
        precision: fp32, bf16, or auto: bf16 where native.
        prompt: The name of the encoder's prompt that is put before both texts; None: the encoder's default prompt.

    Raises:
        UserError: A task is unknown or its data are missing, so that a run stops before its first step.
    """

    primary = "dev"

    def __init__(
        self,
        tasks: str = "sts-mini-dev",
        data: str | None = None,
        precision: str = "auto",
        prompt: str | None = None,
    ) -> None:
        self.data, self.precision, self.prompt = data, precision, prompt
        self._read(tasks)

    @property
    def name(self) -> str:  # type: ignore[override]
        """Its tasks, as they were named."""
        return self.tasks

    def with_tasks(self, tasks: str) -> STSEvaluator:
        """An evaluator on other tasks that is otherwise the same."""
        other = copy.copy(self)
        other._read(tasks)
        return other

    def _read(self, tasks: str) -> None:
        self.tasks = tasks
        self._found, missing = read_data(tasks, self.data, options=("evaluator.tasks", "evaluator.data"))
        if missing:
            name, reason = next(iter(missing.items()))
            raise UserError(f"evaluator.tasks: no data for {name}: {reason}\nfix: set evaluator.data or CSE_DATA")

    def answer(self, encoder: SentenceEncoder) -> Answer:
        """The score of each task, and their average."""
        findings = self.measure(encoder)
        by_task = {finding.name: finding.value for finding in findings}
        return Answer({"dev": sum(by_task.values()) / len(by_task)} | by_task, findings)

    def measure(self, encoder: SentenceEncoder) -> list[Finding]:
        """The scores of an encoder with the similarity of every pair, by task."""
        return score_data(encoder, self.tasks, self._found, {}, precision=self.precision, prompt=self.prompt).findings

    def texts(self, data: str | None = None) -> dict[str, list[tuple[str, ...]]]:
        """Rows of every evaluation set on this machine, in which `cse.data.checks` looks for the training text.

        Nothing is fetched. Sets whose size is not the known one are included: only their text matters here.

        Args:
            data: A folder with evaluation sets, in addition to those in CSE_DATA and the shipped ones.

        Raises:
            UserError: There is no such folder, or a set in it is malformed.
        """
        sources.folders(data, "--eval-data")
        data = data or self.data
        found: dict[str, list[tuple[str, ...]]] = {}
        for name, task in suite.tasks().items():
            with contextlib.suppress(Missing):
                subsets = sources.load(task, data, check=False, hub=False).subsets.values()
                found[name] = [row for pairs in subsets for row in zip(pairs.first, pairs.second, strict=True)]
        for name in transfer_data.specs():
            with contextlib.suppress(Missing):
                splits = transfer_data.load(name, data, check=False).splits
                found[name] = [row.texts for rows in splits.values() for row in rows]
        return found
