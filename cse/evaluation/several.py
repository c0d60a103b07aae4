"""Several evaluators under names, one of which selects the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from cse.errors import UserError
from cse.evaluation.finding import Finding, ask
from cse.interfaces import Evaluator, SentenceEncoder


class Several(Evaluator):
    """The scores of several evaluators; each score is named `NAME/SCORE`, after the evaluator that gave it.

    Args:
        evaluators: The evaluators, by name.
        primary: The name of the evaluator whose primary score selects checkpoints.

    Raises:
        UserError: There is no evaluator, or `primary` names none of them.
    """

    found: Sequence[Finding] | None = None

    def __init__(self, evaluators: Mapping[str, Evaluator], primary: str) -> None:
        if primary not in evaluators:
            names = ", ".join(evaluators) or "nothing"
            raise UserError(f"evaluator.primary is {primary!r}, and evaluators has {names}\nfix: name one of them")
        self.evaluators = dict(evaluators)
        self.primary = f"{primary}/{evaluators[primary].primary}"

    @property
    def name(self) -> str:
        """The names of the evaluators."""
        return "+".join(self.evaluators)

    def __call__(self, encoder: SentenceEncoder) -> dict[str, float]:
        """Score an encoder by each of them."""
        scores, found = dict[str, float](), list[Finding]()
        for name, evaluator in self.evaluators.items():
            scores |= {f"{name}/{key}": value for key, value in evaluator(encoder).items()}
            found += _under(name, getattr(evaluator, "found", None) or ())
        self.found = found
        return scores

    def measure(self, encoder: SentenceEncoder) -> list[Finding]:
        """What each of them finds; one that returns numbers has a finding without arrays."""
        return [f for name, evaluator in self.evaluators.items() for f in _under(name, ask(evaluator, encoder))]


def _under(name: str, findings: Sequence[Finding]) -> list[Finding]:
    """Findings under the name of their evaluator; the only one of an evaluator takes the name itself."""
    if len(findings) == 1:
        return [replace(findings[0], name=name)]
    return [replace(finding, name=f"{name}/{finding.name}") for finding in findings]
