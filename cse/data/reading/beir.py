"""Reads a folder in the layout of BEIR (arXiv:2104.08663): corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from cse.data.reading.files import FileReader, json_record, lines
from cse.data.reading.rows import Column, Reader, Row, document, require
from cse.errors import UserError

COLUMNS = ["query", "document", "score"]


class Judgment(NamedTuple):
    """A line of qrels: how relevant a document is for a query; 0 is not relevant."""

    query: str
    document: str
    score: int
    place: str


def is_beir(folder: Path) -> bool:
    """Tell whether a folder has the files of BEIR."""
    return (folder / "corpus.jsonl").is_file() and (folder / "queries.jsonl").is_file()


def qrels_file(folder: Path, split: str) -> Path:
    """Find the judgments of a split."""
    file = folder / "qrels" / f"{split}.tsv"
    if not file.is_file():
        there = ", ".join(sorted(path.stem for path in (folder / "qrels").glob("*.tsv"))) or "none"
        raise UserError(
            f"data.path {folder} has no qrels/{split}.tsv; its splits are {there}\nfix: name one: --data.split=NAME"
        )
    return file


def read_texts(file: Path, wanted: Collection[str] | None = None) -> Iterator[tuple[str, str]]:
    """Read the ids and texts of corpus.jsonl or queries.jsonl, or the wanted ones; a title is put before its text."""
    seen: set[str] = set()
    for number, line in lines(file):
        if not line.strip():
            continue
        place = f"{file}:{number}"
        record = json_record(line, place)
        for name in ("_id", "text"):
            if name not in record:
                raise UserError(f"data.path: {place} has no {name!r}\nfix: write _id, text and, if there is one, title")
        identity = str(record["_id"])
        if identity in seen:
            raise UserError(f"data.path: {place} repeats the _id {identity!r}\nfix: give each text an _id of its own")
        if wanted is None or identity in wanted:
            seen.add(identity)
            yield identity, document(record.get("title"), record["text"], Column("data.path", "text"), place)


def read_qrels(file: Path) -> Iterator[Judgment]:
    """Read the judgments of a file: query-id, corpus-id and an integer score in each line, under a header."""
    for number, line in lines(file):
        cells, place = line.split("\t"), f"{file}:{number}"
        if not line.strip() or (number == 1 and cells[-1].strip() == "score"):
            continue
        if len(cells) != 3:
            raise UserError(
                f"data.path: {place} has {len(cells)} cells; expected query-id, corpus-id and score\n"
                "fix: separate them by tabs"
            )
        try:
            score = int(cells[2])
        except ValueError:
            raise UserError(
                f"data.path: {place} has the score {cells[2]!r}, which is not an integer\nfix: correct that line"
            ) from None
        yield Judgment(cells[0].strip(), cells[1].strip(), score, place)


class BeirReader(Reader):
    """Rows of a query and a document that is relevant for it, in the order of the judgments.

    Judgments of score 0 and those of unknown ids are left out and counted. The judged texts are held in memory while
    the rows are read, the others are not.
    """

    def __init__(self, folder: Path, path: str, split: str) -> None:
        self.what, self._folder, self._qrels = path, folder, qrels_file(folder, split)

    def names(self) -> list[str]:
        """The columns of a row."""
        return COLUMNS

    def key(self) -> str:
        """A hash of the three files."""
        files = [self._folder / "corpus.jsonl", self._folder / "queries.jsonl"]
        judgments = hashlib.sha256(self._qrels.read_bytes()).hexdigest()
        return f"beir {FileReader(self.what, files).key()} {judgments}"

    def read(self, columns: Sequence[Column]) -> Iterator[Row]:
        """The rows, one by one."""
        require(columns, COLUMNS, self.what)
        judged = [judgment for judgment in read_qrels(self._qrels) if judgment.score > 0]
        queries = dict(read_texts(self._folder / "queries.jsonl", {judgment.query for judgment in judged}))
        corpus = dict(read_texts(self._folder / "corpus.jsonl", {judgment.document for judgment in judged}))
        for query, wanted, score, place in read_qrels(self._qrels):
            if score <= 0 or query not in queries or wanted not in corpus:
                yield Row((), place, skip="not_relevant" if score <= 0 else "unknown_id")
                continue
            cells = {"query": queries[query], "document": corpus[wanted], "score": str(score)}
            yield Row(tuple(cells[str(column.name)] for column in columns), place)
