"""Spans of documents, with other spans of the same document, for pre-training on texts of one's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from pathlib import Path
from typing import Literal

from cse.data.datasets import Dataset
from cse.data.files import FileReader
from cse.data.memory import open_source
from cse.data.parsing import Parsing
from cse.data.readers import kind
from cse.data.rows import Column, Reader, Row
from cse.data.shapes import Shape, of_texts
from cse.errors import UserError, require_at_least
from cse.seeding import python_rng

Context = Literal["neighbor", "overlap", "random"]
CONTEXTS: tuple[Context, ...] = ("neighbor", "overlap", "random")
LONGEST = 100_000  # words of a document that are in memory at once; a longer one is read as several


class Documents(Dataset):
    """Rows of a span and its contexts: other spans of its document, as positives (CoT-MAE).

    Documents are cut once, into spans of `words` words; a rest of less than half of that is left out, and so is a
    document of one span. The contexts of a span are its neighbor (the next span; of the last one the span before), a
    span that overlaps with half of it, and a random other one. `cse.data.TextViews` with `sample: 1` draws one of them
    at each visit, and `cse.data.BothWays` lets each of the two rebuild the other.

    Args:
        path: The source of the documents. In a .txt file, blank lines separate them; a file without blank lines is one.
            In every other source a row is one.
        column: Same as in `Texts`.
        split: Split of a data set on the Hub.
        words: Number of words of a span, >= 2.
        contexts: The contexts of a row, in their order: neighbor, overlap, random. A document of two spans has no
            random one, and an empty text in its place.
        limit: Number of spans to keep. None: all.

    Raises:
        UserError: An argument is out of range, the source cannot be read, or no document has two spans.

    Deviations:
        The authors of CoT-MAE cut after sentences. Their program then cuts long spans to its length twice, once for
        the tokens and once for the mask; a text that is longer than `max_length` is cut once here.
    """

    unit = "spans"

    def __init__(
        self,
        path: str | Path | Sized,
        *,
        column: int | str | None = None,
        split: str = "train",
        words: int = 96,
        contexts: Sequence[Context] = CONTEXTS,
        limit: int | None = None,
    ) -> None:
        require_at_least(2, "data", words=words)
        if not contexts or len(set(contexts)) < len(contexts):
            raise UserError(f"data.contexts is {list(contexts)}\nfix: give one or more of {', '.join(CONTEXTS)}, once")
        self.column, self.split, self.words, self.contexts, self.limit = column, split, words, list(contexts), limit
        self.num_positives = len(contexts)
        whole = of_texts(open_source(path, split), column)
        spans = _Spans(whole, words)
        columns = [Column("data.contexts", name) for name in ("span", *contexts)]
        super().__init__(
            path, Shape(spans, columns, whole.said, whole.names, tuple(whole.texts)), Parsing(len(columns), limit)
        )


class _Spans(Reader):
    """Rows of spans and contexts, from rows of documents, or of their lines."""

    def __init__(self, whole: Shape, words: int) -> None:
        self.what, self._source, self._columns, self._words = whole.source.what, whole.source, whole.texts, words
        self._lines = isinstance(self._source, FileReader) and kind(self._source.files[0]) == ".txt"

    def names(self) -> list[str]:
        """The columns of a row."""
        return ["span", *CONTEXTS]

    def key(self) -> str | None:
        """The key of the source, and how it is read."""
        key = self._source.key()
        return None if key is None else f"spans {key} {[column.name for column in self._columns]} {self._words}"

    def read(self, columns: Sequence[Column]) -> Iterator[Row]:
        """The rows, document by document."""
        for number, (place, words) in enumerate(self._documents()):
            starts = range(0, max(1, len(words) - self._words // 2 + 1), self._words)
            if len(starts) < 2:
                yield Row((), place, skip="single_span")
                continue
            for i in range(len(starts)):
                found = self._row(words, starts, i, number)
                yield Row(tuple([found[str(column.name)] for column in columns]), place)

    def _row(self, words: Sequence[str], starts: Sequence[int], i: int, document: int) -> dict[str, str | None]:
        """A span and its contexts by name."""
        last = len(starts) - 1
        half = self._words // 2 if i < last else -(self._words // 2)
        neighbor = i + 1 if i < last else i - 1
        three = python_rng("span", document, i).sample(starts, min(3, len(starts)))
        places = {"span": starts[i], "neighbor": starts[neighbor], "overlap": starts[i] + half}
        random = next((start for start in three if start not in {starts[i], starts[neighbor]}), None)
        places |= {} if random is None else {"random": random}
        texts = {name: " ".join(words[place : place + self._words]) for name, place in places.items()}
        return {"random": None, **texts}

    def _documents(self) -> Iterator[tuple[str, list[str]]]:
        """The place and the words of each document."""
        place, words, file = "", list[str](), ""
        for row in self._source.read(self._columns):
            new = (row.cells[0] or "").split()
            ends = not (self._lines and new) or row.place.rpartition(":")[0] != file or len(words) >= LONGEST
            if ends and words:
                yield place, words
            if ends:
                place, words, file = row.place, [], row.place.rpartition(":")[0]
            words += new
        if words:
            yield place, words
