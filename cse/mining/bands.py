"""Positives and easy negatives that are mined beside hard negatives, by the rank of a neighbor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from cse.errors import UserError
from cse.mining.miners import Miner, Random, TopK

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Bands:
    """Choose what is mined beside the hard negatives of a row of one text: SciNCL (arXiv:2202.06671, section 3.2).

    The negatives of a text, hard ones first, are dealt to its positives in turn, so that P positives make P rows: row i
    has the negatives i, i + P, ..., or if there are fewer than P, one of them.
    """

    # the first and the last rank of the neighbors that become positives, counted from 1. None: a row keeps its own
    # positive
    positives: tuple[int, int] | None = None
    easy: int = 0  # number of easy negatives of a row: random texts beyond the last rank of the miner
    seed: int = 42  # seeds the easy negatives


class Beside(NamedTuple):
    """The miners of `Bands`, set up; P is the number of rows of a text."""

    positives: TopK | None
    easy: Random | None
    easy_count: int
    width: int


def check_bands(bands: Bands, miner: Miner, compares: bool) -> None:
    """Raise unless the bands are ranks of the miner that do not overlap, and nothing compares with a positive."""
    if bands.easy < 0:
        raise UserError(f"--easy is {bands.easy}\nfix: give an integer >= 0")
    if not isinstance(miner, TopK):
        if bands.easy or bands.positives:
            raise UserError("--positives and --easy need the ranks of hard negatives\nfix: give --ranks, not --random")
        return
    if bands.positives is None:
        return
    first, last = bands.positives
    if not 1 <= first <= last:
        raise UserError(f"--positives is {first} to {last}\nfix: give ranks 1 <= FIRST <= LAST")
    if last >= miner.first:
        raise UserError(
            f"--positives ends at rank {last}, and --ranks begins at {miner.first}, so a text could be both\n"
            f"fix: begin --ranks at {last + 1} or later"
        )
    margins = miner.absolute_margin is not None or miner.relative_margin is not None
    if margins or compares:
        raise UserError(
            "--positives mines several positives of a text, and a margin, --teacher-positive or --reranker compares a "
            "negative with one\nfix: use --ranks, --max-similarity or --teacher-max"
        )


def set_up(bands: Bands, miner: Miner, pool: NDArray[np.float32], device: str = "cpu") -> Beside:
    """The miners of the bands, set up."""
    positives = easy = None
    if isinstance(miner, TopK) and bands.positives:
        positives = TopK(first=bands.positives[0], last=bands.positives[1], index=miner.index)
        positives.setup(pool, device)
    if isinstance(miner, TopK) and bands.easy:
        easy = Random(seed=bands.seed, outside=miner.last, index=miner.index)
        easy.setup(pool, device)
    width = bands.positives[1] - bands.positives[0] + 1 if bands.positives else 1
    return Beside(positives, easy, bands.easy, width)


def dealt(negatives: tuple[str, ...], i: int, rows: int) -> tuple[str, ...]:
    """The negatives of row i of the rows of a text: each goes to one row, or if there are fewer, one to each row."""
    if len(negatives) >= rows or not negatives:
        return negatives[i::rows]
    return (negatives[i % len(negatives)],)
