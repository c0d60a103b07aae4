"""A score for whoever has only training rows: some of them are held out of training, and scored as fits them."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, TypeVar, cast

from cse import distributed
from cse.batch import Example
from cse.data.datasets import Dataset
from cse.data.mixture import Mixture
from cse.data.part import Divided, Part, divide
from cse.data.reading.texts import same_text_key
from cse.errors import UserError, require_ranges
from cse.evaluation.evaluator import Answer, EvalResult, RowEvaluator, Several, chosen, run_evaluator
from cse.evaluation.evaluators.labels import Labels
from cse.evaluation.evaluators.pairs import Similarity
from cse.evaluation.evaluators.retrieval import Retrieval
from cse.evaluation.statistic import bootstrap, interval
from cse.interfaces import Evaluator, SentenceEncoder

log = logging.getLogger("cse")


D = TypeVar("D", bound=Sequence[Example])


@dataclass(eq=False, repr=False, kw_only=True)
class HeldOut(RowEvaluator):
    """Scores rows that it takes out of the training data, so that no text of theirs is trained on.

    The metric is the one that fits the rows: retrieval of each positive among those of all held-out rows for pairs and
    triplets, correlation for scored pairs, classifiers for texts with labels. Rows that share texts with many others,
    of which a share as small as asked cannot be taken whole, stay in training and are counted. A hard negative of a
    training row that is a held-out text is removed from the row.

    Args:
        share: The share of the rows to take, in (0, 1); of a mixture, of the rows of each source that can be scored.
        max_rows: Largest number of rows to take, of each source of a mixture.
        seed: Seed of the choice, which otherwise depends on the texts alone.
        source: The source of a mixture whose score selects checkpoints. None: the first that has a score.
        precision: fp32, bf16, or auto: bf16 where native.
        prompt: The name of the encoder's prompt for anchors and single texts; None: the encoder's default prompt.
        positive_prompt: The same for the positives of pairs and triplets.

    Raises:
        UserError: An argument is out of range.
    """

    primary = ""
    name = "held-out"

    share: Annotated[float, "in (0, 1)"] = 0.05
    max_rows: Annotated[int, ">= 2"] = 5000
    seed: int = 0
    source: str | None = None
    precision: str = "auto"
    prompt: str | None = None
    positive_prompt: str | None = None

    def __post_init__(self) -> None:
        require_ranges("evaluator", self)
        self._metric: Evaluator | None = None
        self._held: dict[str, Part] = {}
        self._said, self._told = "", False

    def take(self, data: D) -> D:
        """The rows that are left to train on; see `Evaluator.take`.

        Raises:
            UserError: The rows have no metric, or too few of them can be taken or are left.
        """
        sources = {n: s.data for n, s in data.sources.items()} if isinstance(data, Mixture) else {"": _rows(data)}
        kinds = {name: kind_of(rows) for name, rows in sources.items()}
        if not any(kinds.values()):
            raise UserError(
                "evaluator: texts without a second text, a score or a label have no metric of their own, so HeldOut "
                "cannot score them\n"
                "fix: give pairs, triplets, scored pairs or labeled texts (data.label_column), or another evaluator, "
                "such as cse.evaluation.STSEvaluator"
            )
        rooms = [min(round(self.share * len(r)), self.max_rows) if kinds[n] else 0 for n, r in sources.items()]
        divided = dict(zip(sources, divide(list(sources.values()), rooms, self.seed), strict=True))
        _require_both(divided, self.share)
        self._held = {name: part.held for name, part in divided.items() if part.held}
        made = {name: self._made(kinds[name], rows) for name, rows in self._held.items()}
        self._metric = made[""] if "" in made else Several(made, primary=self._choice(made))
        self.primary, self._said = self._metric.primary, _said(divided, kinds)
        self._told = False
        return cast(D, _left(data, divided))

    def answer(self, encoder: SentenceEncoder) -> Answer:
        """Score by the metric of the rows; the first time, the difference that the rows can show is said."""
        answer = run_evaluator(self._taken(), encoder)
        if not self._told and not distributed.rank():
            shown = resolution(next(f for f in answer.findings if f.name in chosen(self.primary, answer.findings)))
            log.info("%s", f"held out   two encoders that differ by {shown:.1f} or more are told apart")
        self._told = True
        return answer

    def measure(self, encoder: SentenceEncoder) -> list[EvalResult]:
        return self.answer(encoder).findings

    def texts(self, data: str | None = None) -> dict[str, Sequence[tuple[str, ...]]]:
        self._taken()
        return {name or self.name: [row.texts for row in part] for name, part in self._held.items()}

    def describe(self) -> str:
        return self._said

    def _taken(self) -> Evaluator:
        if self._metric is None:
            raise UserError(
                "evaluator: HeldOut has no rows, since it takes them from the data of a run\n"
                "fix: use it as the evaluator of a recipe or of cse.train; score other rows with an evaluator that "
                "reads them, such as cse.evaluation.Similarity"
            )
        return self._metric

    def _choice(self, made: Mapping[str, Evaluator]) -> str:
        """The source whose score selects checkpoints."""
        if self.source is not None and self.source not in made:
            raise UserError(
                f"evaluator.source is {self.source!r}, of which no row is held out\nfix: name one of {', '.join(made)}"
            )
        return self.source or next(iter(made))

    def _made(self, kind: str, rows: Part) -> Evaluator:
        """The evaluator of rows of a kind."""
        if kind == "similarity":
            return Similarity(rows, precision=self.precision, prompt=self.prompt, name=self.name)
        if kind == "labels":
            return Labels(rows, precision=self.precision, prompt=self.prompt, name=self.name)
        return Retrieval(
            **search_of(rows),
            query_prompt=self.prompt,
            document_prompt=self.positive_prompt,
            precision=self.precision,
            name=self.name,
        )


def resolution(finding: EvalResult) -> float:
    """The difference that rows can show: half the width of its 95 % interval, for encoders that err independently.

    For encoders that err alike, as those of one run do, it is less.
    """
    measure = finding.measures[finding.primary]
    drawn = bootstrap(measure.statistic, [[finding.arrays[column] for column in measure.of]], finding.name)[0]
    low, high = interval(drawn)
    return math.sqrt(2) * (high - low) / 2


def kind_of(data: Dataset) -> str:
    """The metric that fits rows, by what the first one has: similarity, retrieval, labels, or "" for none."""
    row = data[0]
    if row.score is not None and len(row.texts) == 2:
        return "similarity"
    if len(row.texts) > 1:
        return "retrieval"
    return "labels" if row.label is not None else ""


def search_of(rows: Sequence[Example]) -> dict[str, Any]:
    """The queries, corpus and judgments of rows: anchors that are the same text share their positives."""
    queries, corpus, qrels = dict[str, str](), dict[str, str](), dict[str, list[str]]()
    for row in rows:
        anchor = _id(row.texts[0])
        queries.setdefault(anchor, row.texts[0])
        for text in row.texts[1 : 1 + row.num_positives]:
            corpus.setdefault(_id(text), text)
            qrels.setdefault(anchor, []).append(_id(text))
    return {"queries": queries, "corpus": corpus, "qrels": qrels}


def _id(text: str) -> str:
    return same_text_key(text) or text


def _rows(data: object) -> Dataset:
    if not isinstance(data, Dataset):
        raise UserError(
            f"evaluator: HeldOut takes rows from a data set of cse.data, and data is of type {type(data).__name__}\n"
            "fix: give such a data set, or another evaluator"
        )
    return data


def _require_both(divided: Mapping[str, Divided], share: float) -> None:
    """Check that rows are held out, and that rows are left."""
    if not any(part.held for part in divided.values()):
        linked = sum(part.linked for part in divided.values())
        why = f": {linked} rows share texts with more than that many others" if linked else ""
        raise UserError(
            f"evaluator.share is {share}, which holds no row out{why}\nfix: give a larger share, or more data"
        )
    for name, part in divided.items():
        if len(part.kept) < 2:
            of = f" of data.sources.{name}" if name else ""
            raise UserError(
                f"evaluator.share is {share}, which leaves {len(part.kept)} rows{of} to train on\n"
                "fix: give a smaller share"
            )


def _left(data: object, divided: Mapping[str, Divided]) -> Dataset:
    """The data without the rows that are held out."""
    if not isinstance(data, Mixture):
        return divided[""].kept
    sources = {name: replace(source, data=divided[name].kept) for name, source in data.sources.items()}
    return Mixture(sources, schedule=data.schedule, temperature=data.temperature)


def _said(divided: Mapping[str, Divided], kinds: Mapping[str, str]) -> str:
    parts = []
    for name, part in divided.items():
        if part.held:
            total = len(part.held) + len(part.kept)
            text = f"{len(part.held):,} of {total:,} rows held out ({len(part.held) / total:.1%}): {kinds[name]}"
            text += f"; {part.linked:,} rows share too many texts to be" if part.linked else ""
            text += f"; {part.negatives:,} hard negatives removed" if part.negatives else ""
            parts.append(f"{name}: {text}" if name else text)
    return " · ".join(parts)
