"""Several evaluators under names, one of which selects the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from cse.data.checks import KnowsTexts
from cse.errors import UserError
from cse.evaluation.finding import Answer, Finding, Measuring, ask
from cse.interfaces import Evaluator, Rows, SentenceEncoder


class Several(Measuring):
    """The scores of several evaluators; each score is named `NAME/SCORE`, after the evaluator that gave it.

    Args:
        evaluators: The evaluators, by name.
        primary: The name of the evaluator whose primary score selects checkpoints, or one of its scores, `NAME/SCORE`.

    Raises:
        UserError: There is no evaluator, or `primary` names none of them.
    """

    def __init__(self, evaluators: Mapping[str, Evaluator], primary: str) -> None:
        self.evaluators, self._asked = dict(evaluators), primary
        named = [name for name in evaluators if f"{primary}/".startswith(f"{name}/")]
        if not named:
            names = ", ".join(evaluators) or "nothing"
            raise UserError(f"evaluator.primary is {primary!r}, and evaluators has {names}\nfix: name one of them")
        self._first = max(named, key=len)

    @property
    def primary(self) -> str:  # type: ignore[override]
        """The score that selects checkpoints."""
        return self._asked if self._asked != self._first else f"{self._first}/{self.evaluators[self._first].primary}"

    def take(self, data: Rows) -> Rows:
        """The rows that each of them leaves to train on."""
        for evaluator in self.evaluators.values():
            data = evaluator.take(data)
        return data

    def texts(self, data: str | None = None) -> dict[str, Sequence[tuple[str, ...]]]:
        """The texts that each of them scores, as far as it says."""
        known = [each.texts(data) for each in self.evaluators.values() if isinstance(each, KnowsTexts)]
        return {name: rows for sets in known for name, rows in sets.items()}

    def describe(self) -> str:
        """What each of them scores."""
        return " · ".join(filter(None, (evaluator.describe() for evaluator in self.evaluators.values())))

    @property
    def name(self) -> str:  # type: ignore[override]
        """The names of the evaluators."""
        return "+".join(self.evaluators)

    def answer(self, encoder: SentenceEncoder) -> Answer:
        """What each of them says; one that returns numbers has a finding without arrays."""
        scores, found = dict[str, float](), list[Finding]()
        for name, evaluator in self.evaluators.items():
            own = ask(evaluator, encoder)
            scores |= {f"{name}/{key}": value for key, value in own.scores.items()}
            found += _under(name, own.findings)
        return Answer(scores, found)

    def measure(self, encoder: SentenceEncoder) -> list[Finding]:
        """What each of them finds."""
        return self.answer(encoder).findings


def _under(name: str, findings: Sequence[Finding]) -> list[Finding]:
    """Findings under the name of their evaluator; the only one of an evaluator takes the name itself."""
    if len(findings) == 1:
        return [replace(findings[0], name=name)]
    return [replace(finding, name=f"{name}/{finding.name}") for finding in findings]
