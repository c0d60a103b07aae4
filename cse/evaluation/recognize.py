"""The evaluator that fits what a path holds, for `cse eval --data PATH` and `cse search --dev PATH`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from cse.data.reading.beir import is_beir
from cse.data.reading.columns import recognize as recognized
from cse.data.reading.files import KINDS
from cse.data.reading.memory import open_source
from cse.data.reading.rows import Column, Reader, number_in
from cse.data.reading.sources import HUB_ID
from cse.errors import UserError
from cse.evaluation.evaluators.retrieval import is_nano
from cse.interfaces import Evaluator
from cse.recipe.schema import Schema, options_of

CLASSES = {
    "retrieval": "Retrieval",
    "nanobeir": "NanoBEIR",
    "similarity": "Similarity",
    "pair-classification": "PairClassification",
    "triplets": "Triplets",
    "paraphrases": "Paraphrases",
    "labels": "Labels",
    "clustering": "Clustering",
}
STS = "sts"  # a folder of STS and transfer tasks, which are scored by name
SPLIT = "test"  # of a data set on the Hub
PEEK = 10_000  # scores that are read to tell labels 0 and 1 from grades


@dataclass(frozen=True)
class Recognized:
    """An evaluator for a path."""

    class_path: str  # its class
    options: Mapping[str, Any]  # its arguments, as a recipe has them
    said: str  # what was understood, in a line

    def evaluator(self, precision: str = "auto", prompt: str | None = None) -> Evaluator:
        """The evaluator.

        For retrieval, `prompt` is that of the queries.
        """
        schema = Schema({"cse"})
        takes = options_of(schema.resolve(self.class_path, (Evaluator,), "evaluator"))
        asked = {"prompt" if "prompt" in takes else "query_prompt": prompt, "precision": precision}
        part = {"class_path": self.class_path, "init_args": {**self.options, **asked}}
        made: Evaluator = schema.value(Evaluator, part, "evaluator").make()
        return made

    def overrides(self) -> list[str]:
        """The options that give it to a recipe."""
        written = {name: v if isinstance(v, str) else json.dumps(v) for name, v in self.options.items()}
        return [f"--evaluator={self.class_path}", *(f"--evaluator.{name}={v}" for name, v in written.items())]


def recognize(path: str, kind: str | None = None) -> Recognized | None:
    """The evaluator for what a path holds; None for a folder of STS and transfer tasks, which have names.

    A path is a file of rows with a header, or a folder; or a Hub id if the kind is given, a key of `CLASSES` or `sts`.
    """
    place = Path(path).expanduser()
    if kind == STS or (kind is None and place.is_dir() and not (is_beir(place) or is_nano(place))):
        return None
    if place.is_dir():
        kind = kind or ("retrieval" if is_beir(place) else "nanobeir")
    if kind in {"retrieval", "nanobeir"}:
        return Recognized(
            f"cse.evaluation.{CLASSES[kind]}", {"data": path, **_split(place, kind)}, f"{path}: {_said(kind)}"
        )
    if not place.exists() and kind is None and not place.suffix and HUB_ID.fullmatch(path):
        raise UserError(f"--data: {path} is not a path\nfix: say what a Hub id holds: --as {'|'.join(CLASSES)}")
    return _of_rows(path, kind)


def own_rows(option: str, name: str) -> Recognized | None:
    """The evaluator of a path of rows; None for names of tasks."""
    if not Path(name).expanduser().exists() and Path(name.removesuffix(".gz")).suffix not in KINDS:
        return None  # the name of a task
    found = recognize(name)
    if found is None:
        raise UserError(
            f"{option} is {name}, a folder without rows of its own\nfix: name tasks, and give --dev-data DIR"
        )
    return found


def _split(folder: Path, kind: str) -> dict[str, str]:
    """The split of a folder in the layout of BEIR, if it has one and it is not `test`."""
    splits = [path.stem for path in (folder / "qrels").glob("*.tsv")] if kind == "retrieval" else []
    return {"split": splits[0]} if len(splits) == 1 and splits != ["test"] else {}


def _of_rows(path: str, kind: str | None) -> Recognized:
    source = open_source(path, SPLIT)
    known = recognized(source)
    names, text, pair, score = known.names, known.text, known.pair, known.score
    label = known.label or ("class" if "class" in names else "")
    fits = {
        "triplets": known.triplet,
        "pair-classification": pair and score and (kind or _is_binary(source, score)) and f"{pair}, label = {score}",
        "similarity": pair and score and f"{pair}, score = {score}",
        "paraphrases": pair,
        "labels": text and label and f"{text}, label = {label}",
        "clustering": text and label and f"{text}, label = {label}",
    }
    chosen = kind or next((name for name, said in fits.items() if said), None)
    if chosen is None or not fits[chosen]:
        what = f"--as {kind} needs other columns" if kind else "no evaluator fits its columns"
        raise UserError(
            f"--data: {path} has the columns {', '.join(names[:12]) or '(none)'}: {what}\n"
            "fix: name them sentence1, sentence2 and score; anchor, positive and negative; or text and label"
        )
    options: dict[str, Any] = {"path": path}
    options |= {"label_column": label} if chosen in {"labels", "clustering"} else {}
    options |= {"min_score": None, "max_score": None} if chosen == "similarity" else {}
    options |= {} if Path(path).expanduser().exists() else {"split": SPLIT}
    rows = {"triplets": "Triplets", "paraphrases": "Pairs", "labels": "Texts", "clustering": "Texts"}
    data = {"class_path": f"cse.data.{rows.get(chosen, 'ScoredPairs')}", "init_args": options}
    return Recognized(f"cse.evaluation.{CLASSES[chosen]}", {"data": data}, f"{path}: {fits[chosen]}: {_said(chosen)}")


def _said(kind: str) -> str:
    return f"scored by {CLASSES[kind]} (--as {'|'.join([*CLASSES, STS])} for another)"


def _is_binary(source: Reader, score: str) -> bool:
    cells = {row.cells[0] for row in islice(source.read([Column("--data", score)]), PEEK)} - {None, ""}
    return {number_in(str(cell)) for cell in cells} == {0.0, 1.0}
