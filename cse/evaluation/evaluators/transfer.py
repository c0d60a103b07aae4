"""Transfer tasks: how well a logistic regression on frozen vectors does, on SentEval's tasks and on DiscoEval's.

SentEval. Folds, seeds, order of rows, features of pairs, the grid of regularization and one class against the rest are
SentEval's (of its own scikit-learn classifier). Deviations: that one, liblinear's, also regularized the intercept. The
numbers in papers come from SentEval's other classifier, a softmax layer trained by Adam with early stopping (kfold 10,
batch 64, tenacity 5, epoch_size 4), where this one is solved to its optimum. SentEval sorts rows by the number of Moses
tokens, which are counted here as words between spaces.

DiscoEval (Chen et al., EMNLP 2019): do frozen vectors of sentences know where these stand in a text?

    SP     where the first of five sentences belongs     x_1, x_1 - x_2, .., x_1 - x_5    5 classes
    BSO    which of two sentences is the first            u, v, u - v                     every pair in both orders
    DC     whether one of six sentences was replaced      x_1, .., x_6
    SSP    whether a sentence belongs to the abstract     x

A logistic regression over all classes is trained on the vectors. That of SP and BSO is regularized, by the inverse
strength that does best on the dev rows; that of DC and SSP is not. Source: ZeweiChu/DiscoEval, discoeval/so.py and
tools/validation.py, with the classifier of scikit-learn. Deviations: the published numbers are those of a softmax layer
that Adam trains with early stopping, for DC with 2,000 hidden units; this one is solved to its optimum and has no
hidden units, so its scores are not comparable with them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from cse.errors import UserError
from cse.evaluation.encoding import Embed, checked, embedder
from cse.evaluation.evaluator import EvalResult, Measure, RowEvaluator
from cse.evaluation.evaluators import sts_rows
from cse.evaluation.evaluators.classifiers import Labels, Matrix, fit_logistic, fit_softmax, make_folds, nearest_mean
from cse.evaluation.evaluators.sts_rows import TASKS, Missing, fields, lines, require
from cse.interfaces import SentenceEncoder

KIND = "transfer"
FOLDS = 10  # same as in SentEval's full setting; its quick setting has 5
GRID = [2.0**t for t in range(-2, 4)]  # inverse strengths of regularization
UNREGULARIZED = 1e9  # DiscoEval's inverse strength
LATIN = "latin-1"  # MR, CR, SUBJ, MPQA and TREC are distributed in it
SPLITS = {"train": "train.txt", "dev": "valid.txt", "test": "test.txt"}  # DiscoEval's

Part = tuple[Matrix, Labels]
Fit = Callable[[Matrix, Labels, float], Any]


@dataclass(frozen=True)
class Row:
    """A label and the text or texts that it belongs to."""

    label: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Labeled:
    """A task with its rows by split, and where they were read."""

    name: str
    protocol: str
    splits: Mapping[str, list[Row]]
    where: str


@dataclass(frozen=True)
class Accuracy:
    """Accuracy on one task, times 100."""

    test: float  # accuracy on the test rows: the score
    dev: float  # accuracy on the rows that chose the regularization
    n: int  # number of test rows
    nearest_mean: float  # accuracy on the test rows of the class with the nearest mean, for which nothing is chosen
    f1: float | None = None  # F1 of the class "1", for MRPC

    def as_dict(self) -> dict[str, Any]:
        """For results.json."""
        spread = 1.96 * math.sqrt(max(self.test * (100 - self.test), 0.0) / self.n)
        bounds = [round(max(0.0, self.test - spread), 3), round(min(100.0, self.test + spread), 3)]
        found = {"accuracy": self.test, "dev": self.dev, "n": self.n, "nearest_mean": self.nearest_mean}
        return found | {"f1": self.f1, "interval": bounds}


class Transfer(RowEvaluator):
    """Accuracy x 100 of a logistic regression on each of the tasks whose rows are found; see `cse.evaluate`.

    `missing` has the reason why a task has no rows, by task. `check` refuses rows that are not the known sets.
    """

    primary, name = "accuracy", KIND

    def __init__(
        self,
        tasks: Sequence[str],
        data: str | None = None,
        *,
        folds: int = FOLDS,
        precision: str = "auto",
        prompt: str | None = None,
        check: bool = True,
        progress: bool = False,
    ) -> None:
        self.folds, self.precision, self.prompt, self._progress = folds, precision, prompt, progress
        self._rows, self.missing = list[Labeled](), dict[str, str]()
        for task in tasks:
            try:
                self._rows.append(load(task, data, check=check))
            except Missing as reason:
                self.missing[task] = str(reason)

    def measure(self, encoder: SentenceEncoder) -> list[EvalResult]:
        """Score an encoder; `about` of a task is its entry in results.json."""
        embed, found = embedder(encoder, self.precision, self._progress, self.prompt), []
        for rows in self._rows:
            start, scores = time.perf_counter(), score(rows, embed, self.folds).as_dict()
            seconds = round(time.perf_counter() - start, 2)
            about = {**scores, "folds": self.folds, "where": rows.where, "seconds": seconds}
            measures = {self.primary: Measure(scores["accuracy"], "", ())}
            found.append(EvalResult(rows.name, KIND, self.primary, measures, {}, "texts", "", rows.where, about))
        return found


@cache
def specs(group: str = KIND) -> Mapping[str, Mapping[str, Any]]:
    """The content of `tasks/transfer.yaml` or `tasks/discoeval.yaml`, by task, in the order of papers."""
    found: dict[str, Mapping[str, Any]] = yaml.safe_load((TASKS / f"{group}.yaml").read_text(encoding="utf-8"))
    return found


def split_names(names: str) -> tuple[str, list[str]]:
    """Names of STS tasks, left together, and those of transfer tasks, of which `transfer` and `discoeval` are all."""
    groups = {group: list(specs(group)) for group in (KIND, "discoeval")}
    upper = {name.upper(): name for names in groups.values() for name in names}
    rest, found = [], []
    for name in filter(None, (part.strip() for part in names.split(","))):
        if name.lower() in groups:
            found += groups[name.lower()]
        elif name.upper() in upper:
            found.append(upper[name.upper()])
        else:
            rest.append(name)
    return ",".join(rest), list(dict.fromkeys(found))


def score(data: Labeled, embed: Embed, folds: int = FOLDS) -> Accuracy:
    """Score one task."""
    if spec := specs("discoeval").get(data.name):
        parts = {name: features(rows, spec["features"], embed) for name, rows in data.splits.items()}
        grid = GRID if spec["regularized"] else [UNREGULARIZED]
        own = partial(_dev, fit_softmax, parts["train"], parts["dev"])
        return _chosen(parts["train"], parts["test"], own, grid=grid, fit=fit_softmax)
    pairs = specs()[data.name].get("pairs", False)
    parts = {name: features(_ordered(rows), "pair" if pairs else "joined", embed) for name, rows in data.splits.items()}
    if data.protocol == "folds":
        return _nested(*parts["all"], folds)
    if data.protocol == "split":
        own = partial(_dev, fit_logistic, parts["train"], parts["dev"])
        return _chosen(parts["train"], parts["test"], own)
    return _chosen(parts["train"], parts["test"], _inner(*parts["train"], folds), f1=pairs)


def _ordered(rows: Sequence[Row]) -> list[Row]:
    """Rows in SentEval's order, which its folds depend on: by length, then by label."""
    return sorted(rows, key=lambda row: (*(len(text.split()) for text in row.texts), row.label))


def features(rows: Sequence[Row], kind: str, embed: Embed) -> Part:
    """The features (n, .) and labels (n,) of rows.

    Kinds: `joined` x_1, .., x_m; `pair` |u - v|, u * v; `position` x_1, x_1 - x_2, ..; `order` u, v, u - v.
    """
    distinct = list(dict.fromkeys(text for row in rows for text in row.texts))
    vectors = checked(embed(distinct), distinct).astype(np.float64)  # float32 is too coarse for Newton's Hessian
    place = {text: i for i, text in enumerate(distinct)}
    sides = [vectors[[place[row.texts[side]] for row in rows]] for side in range(len(rows[0].texts))]  # of (n, D)
    if kind == "pair":
        sides = [np.abs(sides[0] - sides[1]), sides[0] * sides[1]]
    elif kind == "position":
        sides = [sides[0], *(sides[0] - other for other in sides[1:])]
    elif kind == "order":
        sides = [*sides, sides[0] - sides[1]]
    return sides[0] if len(sides) == 1 else np.hstack(sides), np.array([row.label for row in rows])


def _nested(x: Matrix, y: Labels, folds: int) -> Accuracy:
    """Each fold is tested once by a model whose regularization the other folds chose among themselves."""
    found = [
        _chosen((x[train], y[train]), (x[test], y[test]), _inner(x[train], y[train], folds))
        for train, test in make_folds(y, folds)
    ]
    test, dev, nearest = (float(np.mean([getattr(a, key) for a in found])) for key in ("test", "dev", "nearest_mean"))
    return Accuracy(test, dev, len(y), nearest)


def _inner(x: Matrix, y: Labels, folds: int) -> Callable[[float], float]:
    """Mean accuracy over inner folds, as a function of the regularization."""
    parts = make_folds(y, folds)
    return lambda c: float(np.mean([fit_logistic(x[train], y[train], c).score(x[dev], y[dev]) for train, dev in parts]))


def _dev(fit: Fit, train: Part, dev: Part, c: float) -> float:
    return float(fit(*train, c).score(*dev))


def _chosen(
    train: Part,
    test: Part,
    dev: Callable[[float], float],
    *,
    f1: bool = False,
    grid: Sequence[float] = GRID,
    fit: Fit = fit_logistic,
) -> Accuracy:
    by_c = {c: dev(c) for c in grid}
    best = max(by_c, key=lambda c: by_c[c])  # the first of equals, as SentEval's argmax
    predicted = fit(*train, best).predict(test[0])
    correct = 100 * float(np.mean(predicted == test[1]))
    nearest = 100 * float(np.mean(nearest_mean(*train, test[0]) == test[1]))
    return Accuracy(correct, 100 * by_c[best], len(test[1]), nearest, _f1(predicted, test[1]) if f1 else None)


def _f1(predicted: Labels, gold: Labels) -> float:
    both = np.sum((predicted == "1") & (gold == "1"))
    return float(100 * 2 * both / max(1, np.sum(predicted == "1") + np.sum(gold == "1")))


def load(name: str, data: str | None, *, check: bool = True) -> Labeled:
    """Rows of a task from the first folder that has them, in our TSV layout, SentEval's or DiscoEval's.

    Raises:
        Missing: No folder has them.
        UserError: The rows are malformed, or their number is not the known one.
    """
    spec: Mapping[str, Any] = specs().get(name, {"protocol": "split", "counts": {}})
    looked = list[str]()
    layouts = [("", _tsv), ("transfer", _tsv), ("", _senteval), ("downstream", _senteval)]
    if name not in specs():
        layouts = [("", _discoeval), ("data", _discoeval), ("discoeval", _discoeval)]
    for folder in sts_rows.folders(data):
        for place, read in layouts:
            try:
                splits, where = read(name, folder / place)
            except FileNotFoundError as absent:
                looked.append(str(absent))
                continue
            for split, known in spec["counts"].items():
                if check and len(splits[split]) not in known:
                    raise UserError(
                        f"{name}: {split} in {where} has {len(splits[split])} rows where {known[0]} are known."
                        "\nfix: fetch the set again, or pass --unchecked if another set is intended"
                    )
            return Labeled(name, spec["protocol"], splits, str(where))
    raise Missing("; ".join(looked) or "no --data and no CSE_DATA")


Found = tuple[dict[str, list[Row]], Path]


def _tsv(name: str, root: Path) -> Found:
    spec = specs()[name]
    paths = {s: root / (f"{name}.tsv" if s == "all" else f"{name}_{s}.tsv") for s in spec["counts"]}
    require(paths.values())
    texts = (1, 2) if spec.get("pairs") else (1,)
    return {split: list(_columns(path, 0, texts, skip=1)) for split, path in paths.items()}, root


def _senteval(name: str, root: Path) -> Found:
    (kind, files) = next(iter(specs()[name]["senteval"].items()))
    paths = {key: root / path for key, path in files.items()}
    require(paths.values())
    if kind == "classes":
        rows = [Row(label, (line,)) for label, path in paths.items() for line, _ in lines(path, encoding=LATIN)]
        return {"all": rows}, root
    return {split: list(_READERS[kind](path)) for split, path in paths.items()}, root


def _discoeval(name: str, root: Path) -> Found:
    spec, place = specs("discoeval")[name], root / specs("discoeval")[name]["folder"]
    require(place / file for file in SPLITS.values())
    columns = partial(_columns, label=0, texts=range(1, 1 + spec["texts"]))
    read: Callable[[Path], Iterator[Row]] = _in_order if spec["features"] == "order" else columns
    return {split: list(read(place / file)) for split, file in SPLITS.items()}, place


def _columns(path: Path, label: int, texts: Sequence[int], skip: int = 0) -> Iterator[Row]:
    """The rows of a file with tab-separated columns, below `skip` lines."""
    for line, where in lines(path, skip=skip, header=None):
        cells = fields(line, 1 + max(label, *texts), where)
        yield Row(cells[label].strip(), tuple(cells[column] for column in texts))


def _in_order(path: Path) -> Iterator[Row]:
    """BSO: two texts in their order, which give a row for each order."""
    for line, where in lines(path):
        first, second = fields(line, 2, where)[:2]
        yield Row("1", (first, second))
        yield Row("0", (second, first))


def _coded(path: Path) -> Iterator[Row]:
    """TREC: COARSE:fine and the question, with a space between."""
    for line, where in lines(path, encoding=LATIN):
        code, _, question = line.partition(" ")
        if ":" not in code:
            raise UserError(
                f"{where}: a line must begin with its class, such as NUM:dist; this one begins with {code[:20]!r}\n"
                "fix: correct the line"
            )
        yield Row(code.split(":")[0], (question,))


_READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    # SST2 has a label behind its sentence; MRPC a label, two ids and two sentences under a header.
    "lines": partial(_columns, label=1, texts=(0,)),
    "coded": _coded,
    "columns": partial(_columns, label=0, texts=(3, 4), skip=1),
}
