"""Balances rows by what they are about: few rows of frequent entries are kept, and all of rare ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cse.data.datasets import Dataset
from cse.data.reading.rows import Column
from cse.data.reading.sources import read
from cse.data.tools.writing import check_out, names_of, records_at, write_manifest, write_rows
from cse.errors import UserError, require_at_least
from cse.seeding import derive

TAIL = 0.06  # MetaCLIP's, for 400 million texts and for 2.5 billion
SPACED = str.maketrans({mark: f" {mark} " for mark in ",.;:?!`"})
SEEDS = 2**63  # `derive` is below


class Entries:
    """Names of what rows may be about, such as the titles of an encyclopedia, to be found in texts.

    An entry is in a text if its words follow each other there. Marks of punctuation are words, and letters are compared
    as they are written.

    Deviations: MetaCLIP puts spaces around the punctuation of texts only, and does not find an entry that has some.

    Source: facebookresearch/MetaCLIP, metaclip/metaclip1/substr_matching.py.
    """

    def __init__(self, entries: Sequence[str]) -> None:
        self._number: dict[str, int] = {}
        for entry in entries:
            if words := entry.translate(SPACED).split():
                self._number.setdefault(" ".join(words), len(self._number))
        self._lengths = sorted({entry.count(" ") + 1 for entry in self._number})

    def __len__(self) -> int:
        return len(self._number)

    def found(self, texts: Sequence[str]) -> list[int]:
        """The numbers of the entries that are in one of the texts, in their order."""
        numbers = set[int]()
        for text in texts:
            words = text.translate(SPACED).split()
            for length in self._lengths:
                for start in range(len(words) - length + 1):
                    number = self._number.get(" ".join(words[start : start + length]))
                    if number is not None:
                        numbers.add(number)
        return sorted(numbers)


def threshold(counts: NDArray[np.integer], tail: float) -> int:
    """T such that entries with fewer rows have about this share of all matches.

    Source: facebookresearch/MetaCLIP, metaclip/curation/curate.py.
    """
    ordered = np.sort(counts)
    share = np.cumsum(ordered) / max(1, counts.sum())
    return int(ordered[np.abs(share - tail).argmin()])


def keep_probability(found: Sequence[int], counts: NDArray[np.integer], t: float) -> float:
    """Compute the probability that a row is kept: that one of its entries, of which `counts` rows are there, keeps it.

        1 - prod_e ( 1 - min(1, t / count_e) )    over the entries e of the row; 0 without one

    MetaCLIP (Xu et al., ICLR 2024, arXiv:2309.16671, algorithm 1).
    """
    return 1.0 - float(np.prod([1 - min(1.0, t / counts[entry]) for entry in found]))


def curate(
    *data: Dataset, out: str | Path, entries: str | Path | Sequence[str], t: float | None = None, seed: int = 42
) -> dict[str, Any]:
    """Write the rows that are kept by `keep_probability`, each drawn by the seed and its number alone.

    The rows are read twice, some thousands at a time: to count, and to draw.

    Args:
        data: The rows, all of one class. Entries are looked for in all texts of a row.
        out: A .parquet or .jsonl file. Its manifest, a .json file of the same name, is written beside it.
        entries: Words and names that rows may be about, or a file of them: one on each line, or in the column `text`;
            rows without one are left out.
        t: Number of rows of an entry above which some are left out, > 0 (MetaCLIP: 20,000 of 400 million). None: the
            one below which entries have 6 % of all matches.
        seed: Seed of the draws.

    Returns:
        The manifest; its `settings` have the t that was used, and its `counts` the rows that were read, that have an
        entry, and that were written, and the number of entries that were found.

    Raises:
        UserError: An argument is out of range, a file cannot be read or written, or no row is left.
    """
    target = Path(out)
    require_at_least(1, "curate", t=t)
    names = names_of(data)
    check_out(target, [each.path for each in data])
    known = Entries(_read(entries) if isinstance(entries, str | Path) else entries)
    if not len(known):
        raise UserError(f"--entries {entries} has no entry\nfix: give a file with one on each line")
    counts, matched = np.zeros(len(known), dtype=np.int64), 0
    for found in _found(data, known):
        counts[found] += 1
        matched += bool(found)
    used = max(1, threshold(counts, TAIL)) if t is None else t
    chances = (keep_probability(found, counts, used) for found in _found(data, known))
    kept = np.array([derive("curate", seed, row) / SEEDS < chance for row, chance in enumerate(chances)], dtype=bool)
    if not kept.any():
        raise UserError(
            f"no row of {len(kept):,} is left: {matched:,} have one of the {len(known):,} entries\n"
            "fix: give other entries, which are compared with upper and lower case, or a larger --t"
        )
    written = write_rows(target, names, records_at(data, np.flatnonzero(kept)))
    settings = {"entries": str(entries) if isinstance(entries, str | Path) else len(known), "t": used, "seed": seed}
    share = float(counts[counts < used].sum() / counts.sum())
    about = {"read": len(kept), "matched": matched, "written": written}
    about |= {"entries": len(known), "entries_found": int((counts > 0).sum())}
    return write_manifest(target, "cse data curate", data, settings | {"tail": share}, about, [target])


def _read(path: str | Path) -> list[str]:
    return [cell for row in read(str(path), [Column("--entries", "text")]) for cell in row.cells if cell]


def _found(data: Sequence[Dataset], entries: Entries) -> Iterator[list[int]]:
    """The entries of each row of all data sets."""
    return (entries.found(row) for each in data for block in each.blocks() for row in block)
