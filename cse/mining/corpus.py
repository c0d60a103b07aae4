"""The texts of rows and of a pool, on disk, and which of them must not be negatives of which rows."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, partial
from itertools import chain, compress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cse.batch import Example
from cse.data.datasets import Dataset
from cse.data.reading.numbering import GrowingArray, Numbering, Numbers, fingerprints
from cse.data.reading.store import cached, mark
from cse.data.reading.texts import ByRow, StoredTexts, TextStream, TextWriter, distinct_key, stream
from cse.errors import UserError
from cse.files import cache_dir, read_json, write_sealed

BLOCK = 16_384  # rows that are Python objects at the same time
FORMAT = 1  # to be raised when other files are written
ROWS = ("anchor", "positive", "group", "own", "starts", "places")  # arrays of the rows; see `_write`
Block = tuple[Sequence[Sequence[str]], Sequence[int]]  # the texts of rows, and their numbers of positives


class Corpus:
    """The texts of rows and of a pool, without repeats.

    A text of the pool cannot be a negative of a row if it is the same text as the row's anchor, a positive of any
    row with the same anchor, or a negative that the row has already.

    Texts and numbers are in the cache, memory-mapped and shared by the processes of a machine; the first that asks
    writes them.

    Args:
        data: The M rows. A single text is its own positive, by dropout or augmentation.
        pool: Texts that may become negatives. None: the texts after the anchor of each row, and single texts.

    Attributes:
        texts: T texts. The pool comes first, and no two texts of it have the same `same_text_key`.
        size: The number N of texts in the pool.
        anchor: (M,) the index in `texts` of the anchor of each row.
        positive: (M,) the index in `texts` of the first positive of each row.

    Raises:
        UserError: The pool has fewer than two texts, or the cache cannot be written.
    """

    def __init__(self, data: Sequence[Example], pool: TextStream | Iterable[str] | None = None) -> None:
        given = None if pool is None else stream(pool if isinstance(pool, TextStream) else list(pool))
        folder = cached(cache_dir() / "corpora" / _key(data, given), "texts", partial(_write, data, given))
        meta = read_json(folder / "meta.json")
        self.texts: Sequence[str] = StoredTexts(folder)
        self.size, self._seed = int(meta["size"]), int(meta["seed"])
        self._numbers = Numbers(folder)
        self.anchor, self.positive, self._group, self._own, self._starts, self._places = (
            np.load(folder / f"{name}.npy", mmap_mode="r") for name in ROWS
        )
        self._groups, self._by_group = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("groups", "order"))

    def find(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """The indices (n,) of texts; -1 for those that are not in the corpus."""
        return self._numbers.find(fingerprints(texts, self._seed))

    def sha256(self) -> str:
        """A hash of all texts."""
        digest = hashlib.sha256(f"{self.size}".encode())
        for text in self.texts:
            digest.update(text.encode() + b"\x1e")
        return digest.hexdigest()

    @cached_property
    def _anchors(self) -> NDArray[np.bool_]:
        """(T,) whether a text is an anchor."""
        found = np.zeros(len(self.texts), dtype=bool)
        for start in range(0, len(self.anchor), BLOCK):
            found[self.anchor[start : start + BLOCK]] = True
        return found

    @cached_property
    def _query(self) -> NDArray[np.int64]:
        """(T,) the number of a text among the distinct anchors, if it is one."""
        return np.cumsum(self._anchors) - 1

    @property
    def anchor_texts(self) -> Sequence[str]:
        """The Q distinct anchors, in the order of their indices."""
        return _TextsAt(self.texts, np.flatnonzero(self._anchors))

    def queries(
        self, rows: slice, vectors: NDArray[np.float32], anchors: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        """(M', D) the vectors of these rows' anchors: rows of `anchors` (Q, D), or of `vectors` (T, D) without any."""
        own = self.anchor[rows]
        found: NDArray[np.float32] = vectors[own] if anchors is None else anchors[self._query[own]]
        return found

    def banned(self, rows: range) -> NDArray[np.int64]:
        """The rows (len(rows), E) of the pool that must not be negatives of these rows, filled up with -1."""
        shared: dict[int, set[int]] = {}
        lists = []
        for row in rows:
            group = int(self._group[row])
            if group not in shared:
                low, high = np.searchsorted(self._groups, [group, group + 1])
                alike = (self._of_row(other)[0] for other in self._by_group[low:high].tolist())
                shared[group] = set(chain.from_iterable(alike))
            lists.append(sorted({*shared[group], *self._of_row(row)[1]} - {-1}))
        width = max(map(len, lists), default=0)
        return np.array([each + [-1] * (width - len(each)) for each in lists], dtype=np.int64).reshape(len(rows), width)

    def _of_row(self, row: int) -> tuple[list[int], list[int]]:
        """The places in the pool of a row's anchor and positives, and of its own negatives; -1 for other texts."""
        start, end = self._starts[row : row + 2].tolist()
        places: list[int] = self._places[start:end].tolist()
        first = 1 + int(self._own[row])
        return places[:first], places[first:]


class _TextsAt(ByRow[str]):
    """Some of a sequence of texts."""

    def __init__(self, texts: Sequence[str], rows: NDArray[np.int64]) -> None:
        self._texts, self._rows = texts, rows

    def __len__(self) -> int:
        return len(self._rows)

    def _row(self, index: int) -> str:
        return self._texts[int(self._rows[index])]


def _blocks(data: Sequence[Example]) -> Iterator[Block]:
    """The rows in blocks; a row of a single text has it twice."""
    if isinstance(data, Dataset):
        found: Iterator[Block] = ((block, [data.num_positives] * len(block)) for block in data.blocks())
    else:
        parts = (data[start : start + BLOCK] for start in range(0, len(data), BLOCK))
        found = (([each.texts for each in part], [each.num_positives for each in part]) for part in parts)
    for rows, positives in found:
        yield [tuple(row) * 2 if len(row) == 1 else row for row in rows], positives


def _key(data: Sequence[Example], pool: TextStream | None) -> str:
    """The name of a corpus in the cache: a hash of its rows and texts."""
    digest = hashlib.sha256(f"{FORMAT} {'' if pool is None else pool.key}".encode())
    for rows, positives in _blocks(data):
        digest.update(np.array([list(map(len, rows)), positives], dtype=np.int64).tobytes())
        digest.update(fingerprints(chain.from_iterable(rows)).tobytes())
    return digest.hexdigest()[:32]


def _write(data: Sequence[Example], pool: TextStream | None, folder: Path, seed: int) -> None:
    """Write the files of a corpus.

    Texts have numbers by their exact text, in the order of `texts`: the pool, then anchors, then positives. By
    `same_text_key`, the pool has the same numbers, and the anchors the next ones, which tell groups of rows.

    Of M rows, anchor, positive and group have a number each, and own how many positives there are. places has the
    places in the pool of all texts of the rows, -1 for none; those of row i are from starts[i] to starts[i + 1]. order
    has the rows sorted by group, and groups their groups.
    """
    alike = folder / "alike"
    alike.mkdir(exist_ok=True)
    same, exact, texts = Numbering(alike), Numbering(folder), TextWriter(folder)
    files = {name: GrowingArray(folder / f"{name}.npy", np.int64) for name in ROWS}

    def number(some: Sequence[str]) -> NDArray[np.int64]:
        """The numbers of texts, of which new ones are written."""
        numbers, new = exact.add(fingerprints(some, seed))
        texts.append(list(compress(some, new.tolist())))
        return numbers

    after_anchors = ([text for row in rows for text in row[1:]] for rows, _ in _blocks(data))
    for block in after_anchors if pool is None else pool.blocks():
        given = [text for text in block if text.strip()]
        _, new = same.add(_prints(given, seed))
        number(list(compress(given, new.tolist())))
    size = same.count
    if size < 2:
        raise UserError(
            f"the pool has {size} different texts, and mining needs 2 or more\nfix: give a larger --pool or --data"
        )
    for rows, positives in _blocks(data):
        files["anchor"].append(number([row[0] for row in rows]))
        files["group"].append(same.add(_prints([row[0] for row in rows], seed))[0])
        files["own"].append(np.array(positives))
    same.close()
    known, end = Numbers(alike), 0
    files["starts"].append(np.zeros(1))
    for rows, _ in _blocks(data):
        files["positive"].append(number([row[1] for row in rows]))
        ends = end + np.cumsum([len(row) for row in rows])
        found = known.find(_prints(list(chain.from_iterable(rows)), seed))
        files["places"].append(np.where(found < size, found, -1))
        files["starts"].append(ends)
        end = int(ends[-1])
    exact.close()
    texts.close()
    for file in files.values():
        file.close()
    shutil.rmtree(alike)
    groups = np.load(folder / "group.npy", mmap_mode="r")
    order = np.argsort(groups, kind="stable")
    np.save(folder / "order.npy", order)
    np.save(folder / "groups.npy", groups[order])
    written = [f"{name}.npy" for name in (*ROWS, "order", "groups")]
    marks = {name: mark(folder / name) for name in (*written, *Numbers.FILES, *StoredTexts.FILES)}
    write_sealed(folder / "meta.json", {"size": size, "seed": seed, "marks": marks})


def _prints(texts: Iterable[str], seed: int) -> NDArray[np.uint64]:
    """The fingerprints (n, 2) of texts by what makes them the same text."""
    return fingerprints(map(distinct_key, texts), seed)
