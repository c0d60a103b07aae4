"""Scores by width: those of the first dimensions of an encoder's vectors, which are computed once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cse.encoder.vectors import unit
from cse.evaluation import describe
from cse.evaluation.encoding import embedder
from cse.evaluation.finding import Finding, ask
from cse.evaluation.harness import Outcome, score_data
from cse.interfaces import Evaluator

UNIT = 1e-3  # vectors whose lengths differ from 1 by less, on average, are scaled again after a cut


class FirstDimensions:
    """An encoder whose vectors are cut to some width; each text is encoded once for all widths.

    Args:
        encoder: The encoder.
        precision: fp32, bf16 or auto.

    Attributes:
        width: The number of first dimensions that `encode` keeps; None: all.
    """

    def __init__(self, encoder: Any, precision: str = "auto") -> None:
        self._encoder, self._precision = encoder, precision
        self._known: dict[tuple[str | None, str], NDArray[np.floating]] = {}
        self.width: int | None = None
        self.similarity = getattr(encoder, "similarity", getattr(encoder, "similarity_fn_name", None))
        self.prompts = getattr(encoder, "prompts", None) or {}
        self.default_prompt_name = getattr(encoder, "default_prompt_name", None)

    @property
    def dim(self) -> int:
        """D, the size of a whole vector."""
        return int(self._whole(["a"], None).shape[1])

    def remember(self, outcome: Outcome, prompt: str | None) -> None:
        """Take the vectors that were scored already, so that their texts are not encoded again."""
        if outcome.vectors is not None:
            self._known |= {(prompt, text): outcome.vectors[row] for text, row in outcome.row.items()}

    def encode(self, texts: list[str], *, batch_size: int = 64, prompt_name: str | None = None) -> NDArray[np.floating]:
        """(n, `width`) vectors; those that were of unit length are scaled to it again."""
        whole = self._whole(texts, prompt_name)
        if self.width is None or not len(whole):
            return whole
        scales = np.abs(np.linalg.norm(whole, axis=1) - 1).mean() < UNIT
        cut = whole[:, : self.width]
        return unit(cut) if scales else cut

    def _whole(self, texts: list[str], prompt: str | None) -> NDArray[np.floating]:
        new = [text for text in dict.fromkeys(texts) if (prompt, text) not in self._known]
        if new:
            vectors = embedder(self._encoder, self._precision, prompt=prompt)(new)
            self._known |= {(prompt, text): vector for text, vector in zip(new, vectors, strict=True)}
        return np.stack([self._known[prompt, text] for text in texts]) if texts else np.zeros((0, 0))


def by_width(
    encoder: FirstDimensions,
    widths: Sequence[int],
    outcome: Outcome,
    evaluators: Sequence[Evaluator],
    labeled: Sequence[str],
    *,
    data: str | None,
    folds: int,
    check: bool,
    prompt: str | None,
) -> list[dict[str, Any]]:
    """The entry `dimensions` of results.json, which `results` describes: the widths and the whole one, widest first.

    Args:
        encoder: The encoder.
        widths: The widths that were asked for.
        outcome: The scores of whole vectors on STS tasks, whose rows are scored again.
        evaluators: The evaluators that were asked for.
        labeled: The transfer tasks that were asked for.
        data: The folder with their rows.
        folds: Folds of these tasks.
        check: Whether their rows must be the known ones.
        prompt: The name of the prompt that is put before every text of a task.
    """
    encoder.remember(outcome, prompt)
    entries = []
    for width in sorted({*widths, encoder.dim}, reverse=True):
        encoder.width = width
        scored = Outcome(outcome.requested, {}, {}, {})
        if outcome.data:
            scored = score_data(encoder, outcome.requested, outcome.data, outcome.missing, prompt=prompt)
        own = [ask(evaluator, encoder).findings for evaluator in evaluators]
        findings = [*scored.findings, *chain.from_iterable(own)]
        entry: dict[str, Any] = {"width": width, "tasks": {f.name: f.value for f in findings}}
        entry["average"] = _average(findings, outcome)
        if labeled:
            embed = embedder(encoder, prompt=prompt)
            found = describe.build_transfer(labeled, data, embed, folds=folds, check=check)["transfer"]
            entry["transfer"] = {name: task["accuracy"] for name, task in found.items()}
        entries.append(entry)
    encoder.width = None
    return entries


def _average(findings: Sequence[Finding], outcome: Outcome) -> float | None:
    """The mean of the scores; None if a task is missing, or the tasks have different metrics."""
    if outcome.missing or len({f.primary for f in findings}) != 1:
        return None
    return sum(f.value for f in findings) / len(findings)
