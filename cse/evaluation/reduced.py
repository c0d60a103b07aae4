"""Scores of reduced vectors, cut to their first dimensions or quantized; whole vectors are computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cse.encoder.vectors import unit
from cse.errors import UserError
from cse.evaluation import describe
from cse.evaluation.encoding import embedder
from cse.evaluation.finding import Finding, ask
from cse.evaluation.harness import Outcome, score_data
from cse.inference.quantize import FILE, Calibration, Kind, needs_calibration, rendered
from cse.interfaces import Evaluator

Change = Callable[[NDArray[np.floating]], NDArray[np.floating]]
UNIT = 1e-3  # vectors whose lengths differ from 1 by less, on average, are scaled again after a cut


class Reduced:
    """An encoder whose vectors are changed; each text is encoded once for all changes.

    Args:
        encoder: The encoder.
        precision: fp32, bf16 or auto.

    Attributes:
        change: The change of vectors (n, D) that `encode` makes; None: none.
    """

    def __init__(self, encoder: Any, precision: str = "auto") -> None:
        self._encoder, self._precision = encoder, precision
        self._known: dict[tuple[str | None, str], NDArray[np.floating]] = {}
        self.change: Change | None = None
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
        """The changed vectors of texts."""
        whole = self._whole(texts, prompt_name)
        return whole if self.change is None or not len(whole) else self.change(whole)

    def _whole(self, texts: list[str], prompt: str | None) -> NDArray[np.floating]:
        new = [text for text in dict.fromkeys(texts) if (prompt, text) not in self._known]
        if new:
            vectors = embedder(self._encoder, self._precision, prompt=prompt)(new)
            self._known |= {(prompt, text): vector for text, vector in zip(new, vectors, strict=True)}
        return np.stack([self._known[prompt, text] for text in texts]) if texts else np.zeros((0, 0))


@dataclass(frozen=True, slots=True)
class Rescoring:
    """What is scored again for each change of the vectors.

    Attributes:
        outcome: The scores of whole vectors on STS tasks, whose rows are scored again.
        evaluators: The evaluators that were asked for.
        labeled: The transfer tasks that were asked for.
        data: The folder with their rows.
        folds: Folds of these tasks.
        check: Whether their rows must be the known ones.
        prompt: The name of the prompt that is put before every text of a task.
    """

    outcome: Outcome
    evaluators: Sequence[Evaluator]
    labeled: Sequence[str]
    data: str | None
    folds: int
    check: bool
    prompt: str | None

    def scores(self, encoder: Reduced) -> dict[str, Any]:
        """`tasks`, `average` and, of transfer tasks, `transfer`, as `results` describes them; or why there are none."""
        try:
            return self._scores(encoder)
        except UserError as error:  # whole vectors have scores, so the change makes all of them alike
            return {"tasks": {}, "average": None, "undefined": str(error).splitlines()[0]}

    def _scores(self, encoder: Reduced) -> dict[str, Any]:
        scored, known = Outcome(self.outcome.requested, {}, {}, {}), self.outcome
        if known.data:
            scored = score_data(encoder, known.requested, known.data, known.missing, prompt=self.prompt)
        own = [ask(evaluator, encoder).findings for evaluator in self.evaluators]
        findings = [*scored.findings, *chain.from_iterable(own)]
        entry: dict[str, Any] = {"tasks": {f.name: f.value for f in findings}, "average": _average(findings, known)}
        if self.labeled:
            embed = embedder(encoder, prompt=self.prompt)
            found = describe.build_transfer(self.labeled, self.data, embed, folds=self.folds, check=self.check)
            entry["transfer"] = {name: task["accuracy"] for name, task in found["transfer"].items()}
        return entry


def rescored(
    encoder: Reduced,
    again: Rescoring,
    widths: Sequence[int] | None,
    kinds: Sequence[Kind],
    calibration: Calibration | None,
) -> dict[str, Any]:
    """The entries `dimensions` and `quantized` of results.json, as far as widths and kinds were asked for."""
    encoder.remember(again.outcome, again.prompt)
    found = {} if widths is None else {"dimensions": by_width(encoder, widths, again)}
    return found | ({"quantized": by_kind(encoder, kinds, calibration, again)} if kinds else {})


def by_width(encoder: Reduced, widths: Sequence[int], again: Rescoring) -> list[dict[str, Any]]:
    """The scores by width, of the given ones and of whole vectors, widest first."""
    entries = []
    for width in sorted({*widths, encoder.dim}, reverse=True):
        encoder.change = first_dimensions(width)
        entries.append({"width": width, **again.scores(encoder)})
    encoder.change = None
    return entries


def by_kind(
    encoder: Reduced, kinds: Sequence[Kind], calibration: Calibration | None, again: Rescoring
) -> list[dict[str, Any]]:
    """The scores of vectors as they are, then those of each kind.

    The vectors that a calibration is of are cut and scaled as it was measured, for all kinds and for the first entry.
    """
    size = encoder.dim if calibration is None else len(calibration.low)
    scales = calibration is not None and bool(calibration.made_from.get("normalize"))
    entries = []
    for kind in (None, *kinds):
        encoder.change = _quantized(kind, calibration, size, scales)
        each = 4 * size if kind is None else size if needs_calibration(kind) else -(-size // 8)
        entries.append({"kind": kind or "float32", "bytes": each, **again.scores(encoder)})
    encoder.change = None
    return entries


def calibration_for(folder: Path, kinds: Sequence[Kind]) -> Calibration | None:
    """The calibration that lies in the folder of a model; None if there is none, and no kind needs it.

    Raises:
        UserError: A kind needs a calibration and there is none.
    """
    if (folder / FILE).is_file():
        return Calibration.read(folder / FILE)
    for kind in filter(needs_calibration, kinds):
        raise UserError(
            f"--quantize {kind} needs the ranges of the dimensions, and {folder / FILE} does not exist\n"
            f"fix: cse encode {folder} TEXTS --quantize {kind} --out v.npy measures and saves them"
        )
    return None


def first_dimensions(width: int) -> Change:
    """The first `width` dimensions; vectors that were of unit length are scaled to it again."""

    def cut(whole: NDArray[np.floating]) -> NDArray[np.floating]:
        scales = np.abs(np.linalg.norm(whole, axis=1) - 1).mean() < UNIT
        return unit(whole[:, :width]) if scales else whole[:, :width]

    return cut


def _quantized(kind: Kind | None, calibration: Calibration | None, size: int, scales: bool) -> Change:
    def change(whole: NDArray[np.floating]) -> NDArray[np.floating]:
        cut = unit(whole[:, :size]) if scales else whole[:, :size]
        return cut if kind is None else rendered(cut, kind, calibration)

    return change


def _average(findings: Sequence[Finding], outcome: Outcome) -> float | None:
    """The mean of the scores; None if a task is missing, or the tasks have different metrics."""
    if outcome.missing or len({f.primary for f in findings}) != 1:
        return None
    return sum(f.value for f in findings) / len(findings)
