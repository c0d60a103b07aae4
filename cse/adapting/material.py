"""Describe what there is to learn from: pairs, labeled texts or texts, and their division into train, dev and test."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cse.batch import Example
from cse.data.datasets import Dataset, Pairs, Texts, open_rows
from cse.data.part import divide
from cse.errors import UserError
from cse.evaluation.evaluators.held_out import search_of
from cse.evaluation.evaluators.labels import Labels
from cse.evaluation.evaluators.retrieval import Retrieval
from cse.files import atomic_dir, read_json, write_json, write_lines
from cse.interfaces import Evaluator

SHARE, MOST = 0.1, (500, 1000)  # of the rows, for dev and for test each; at most
FIT, SHOTS = "fit", 8  # the rows of each label that classifiers are trained on, as in mteb
MATERIAL = "material.json"  # of a folder whose rows are divided
HALF = 5  # words that each half of a text has at least


@dataclass(frozen=True)
class Material:
    """Rows of one kind, divided such that no text is in two parts."""

    kind: str  # `pairs`, `labels`, or `texts`, whose halves are pairs: the first one searches for the second
    train: int  # number of rows to train on
    dev: int  # number of rows that select
    test: int  # number of rows that only the last comparison reads
    labels: int = 0  # number of labels with at least two rows to train on
    fewest: int = 0  # number of rows of the rarest of these labels

    def describe(self) -> str:
        """The kind and the counts, in words."""
        what = {"texts": "texts (their halves are pairs)", "labels": f"texts with {self.labels} labels"}
        counts = f"{self.train:,} to train on, {self.dev:,} dev, {self.test:,} test; no text is in two of them"
        return f"{what.get(self.kind, self.kind)}: {counts}"


def prepare(data: str, folder: Path, *, columns: Sequence[str] | None, label_column: str | None, seed: int) -> Material:
    """Divide rows by groups that share a text, and write train.jsonl, and dev and test as sets to score.

    Raises:
        UserError: The rows cannot be read, cannot be used, or cannot be divided.
    """
    if (folder / MATERIAL).is_file():
        return Material(**read_json(folder / MATERIAL))
    rows = open_rows(data, columns=columns, label_column=label_column)
    kind = kind_of(rows, data)
    if kind == "texts":  # halves that texts share are on one side, too
        halved = [pair for row in rows if (pair := halves(row.texts[0])) is not None]
        if len(halved) < 20:
            raise UserError(
                f"{data} has {len(halved)} texts of {2 * HALF} words or more, whose halves are pairs\n"
                "fix: give 20 or more, or pairs (two columns), or labels (--label-column)"
            )
        rows = Pairs(halved)
    test, dev = (min(max(2, round(SHARE * len(rows))), most) for most in reversed(MOST))
    if len(rows) < 20:
        raise UserError(f"{data} has {len(rows)} rows\nfix: give 20 or more, of which some are held out to measure")
    outer = divide([rows], [dev + test], seed)[0]
    inner = divide([outer.held], [test], seed)[0] if outer.held else None
    if inner is None or not inner.held or len(inner.kept) < 2 or len(outer.kept) < 10:
        raise UserError(
            f"{data} cannot be divided: {outer.linked:,} of {len(rows):,} rows share texts with too many others\n"
            "fix: give rows with other texts, or train without dev: cse train simcse-sup --data FILE --evaluator=null"
        )
    parts: dict[str, Sequence[Example]] = {"train": outer.kept, "dev": inner.kept, "test": inner.held}
    if kind == "labels":  # classifiers know the labels of some rows to train on
        known = {row.label for row in outer.kept}
        parts |= {name: [row for row in parts[name] if row.label in known] for name in ("dev", "test")}
    with atomic_dir(folder) as made:
        sizes = {name: _write(kind, part, made, name) for name, part in parts.items()}
        counts = Counter(row.label for row in outer.kept) if kind == "labels" else Counter[Any]()
        usable = [count for count in counts.values() if count > 1]
        if kind == "labels" and len(usable) < 2:
            raise UserError(f"{data} has {len(usable)} labels with two texts or more\nfix: give more texts of a label")
        found = Material(kind, **sizes, labels=len(usable), fewest=min(usable, default=0))
        if kind == "labels":
            _write(kind, _of_each(outer.kept), made, FIT)
        write_json(made / MATERIAL, asdict(found))
    return found


def evaluator(kind: str, folder: Path, part: str) -> tuple[Evaluator, list[str]]:
    """The metric of a part, and the options by which `cse train` selects on it."""
    if kind == "labels":
        path, fit = folder / f"{part}.jsonl", folder / f"{FIT}.jsonl"
        options = ["--evaluator=cse.evaluation.Labels", f"--evaluator.data={path}", f"--evaluator.train={fit}"]
        return Labels(str(path), train=str(fit), name=part), [*options, f"--evaluator.name={part}"]
    options = ["--evaluator=cse.evaluation.Retrieval", f"--evaluator.data={folder / part}", f"--evaluator.name={part}"]
    return Retrieval(folder / part, name=part), options


def kind_of(rows: Dataset, data: str) -> str:
    """`pairs`, `labels` or `texts`; a UserError for scored pairs."""
    if rows.unit == "scored pairs":
        raise UserError(f"{data} has scored pairs\nfix: cse train cosine-mse --encoder MODEL --data={data}")
    if len(rows[0].texts) > 1:
        return "pairs"
    return "labels" if isinstance(rows, Texts) and rows[0].label is not None else "texts"


def _of_each(rows: Sequence[Example]) -> list[Example]:
    """The first rows of each label."""
    seen, found = Counter[Any](), list[Example]()
    for row in rows:
        seen[row.label] += 1
        found += [row] * (seen[row.label] <= SHOTS)
    return found


def _write(kind: str, part: Sequence[Example], folder: Path, name: str) -> int:
    """Write the rows of a part; returns their number."""
    if kind == "labels":
        write_lines(folder / f"{name}.jsonl", [{"text": row.texts[0], "label": f"label {row.label}"} for row in part])
        return len(part)
    pairs = [row.texts[:2] for row in part]
    if name == "train":
        random.Random(0).shuffle(pairs)  # a budget may not suffice for all
        write_lines(folder / "train.jsonl", [{"anchor": a, "positive": p} for a, p in pairs])
        if kind == "texts":
            write_lines(folder / "texts.jsonl", [{"text": " ".join(pair)} for pair in pairs])
        return len(pairs)
    found = search_of([Example(texts=pair) for pair in pairs])
    numbers = {role: {key: f"{role[0]}{i}" for i, key in enumerate(found[role])} for role in ("queries", "corpus")}
    (folder / name / "qrels").mkdir(parents=True)
    for role, ids in numbers.items():
        rows = [{"_id": ids[key], "text": text} for key, text in found[role].items()]
        write_lines(folder / name / f"{role}.jsonl", rows)
    judged = [
        f"{numbers['queries'][query]}\t{numbers['corpus'][document]}\t1"
        for query, documents in found["qrels"].items()
        for document in dict.fromkeys(documents)
    ]
    lines = "\n".join(["query-id\tcorpus-id\tscore", *judged])
    (folder / name / "qrels" / "test.tsv").write_text(f"{lines}\n", encoding="utf-8")
    return len(pairs)


def halves(text: str) -> tuple[str, str] | None:
    """A text in two, at the end of the sentence next to its middle, else at its middle word; None if it is short."""
    words = text.split()
    if len(words) < 2 * HALF:
        return None
    ends = [i + 1 for i, word in enumerate(words) if re.search(r"[.!?]$", word) and HALF <= i + 1 <= len(words) - HALF]
    at = min(ends, key=lambda end: abs(end - len(words) / 2), default=len(words) // 2)
    return " ".join(words[:at]), " ".join(words[at:])
