"""The evaluator that training uses: the harness itself, on data read once."""

from __future__ import annotations

from cse.errors import UserError
from cse.evaluation.harness import read_data, require_complete, score_data
from cse.evaluation.texts import texts_at_hand
from cse.interfaces import Evaluator, SentenceEncoder


class STSEvaluator(Evaluator):
    """Spearman x 100 ("all") of each task, and their average as `dev`.

    Args:
        tasks: Names of tasks and groups, separated by commas.
        data: A folder with their rows; None: CSE_DATA, the Hub, or the shipped sets.
        precision: fp32, bf16, or auto: bf16 where native.

    Raises:
        UserError: A task is unknown or its data are missing, so that a run stops before its first step.
    """

    primary = "dev"

    def __init__(self, tasks: str = "sts-mini-dev", data: str | None = None, precision: str = "auto") -> None:
        self.tasks, self.data, self.precision = tasks, data, precision
        self._found, missing = read_data(tasks, data)
        if missing:
            name, reason = next(iter(missing.items()))
            raise UserError(f"evaluator.tasks: no data for {name}: {reason}\nfix: set evaluator.data or CSE_DATA")

    def __call__(self, encoder: SentenceEncoder) -> dict[str, float]:
        """Score an encoder."""
        outcome = require_complete(score_data(encoder, self.tasks, self._found, {}, precision=self.precision))
        average = outcome.average
        assert average is not None  # complete, so there is one
        return {"dev": average} | {name: score.all.spearman for name, score in outcome.scores.items()}

    def texts(self, data: str | None = None) -> dict[str, list[tuple[str, ...]]]:
        """The rows of every evaluation set on this machine; `cse.data.checks` looks for them in the training text."""
        return texts_at_hand(data or self.data)
