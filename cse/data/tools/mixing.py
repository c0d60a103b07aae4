"""Mixes the rows of several sources into one file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cse.data.datasets import Dataset
from cse.data.tools.writing import Record, check_out, names_of, records, write_manifest, write_rows
from cse.errors import UserError, require_at_least, require_positive
from cse.seeding import derive


def mix(
    *data: Dataset,
    out: str | Path,
    shares: Sequence[float] | None = None,
    rows: int | None = None,
    seed: int = 42,
) -> dict[str, Any]:
    """Write rows of several sources into one file, in random order, with a column `source` that names theirs.

    Training on several sources needs no such file: `cse.data.Mixture` keeps their settings apart.

    Args:
        data: Two or more sources, all of one class.
        out: A .parquet or .jsonl file. Its manifest, a .json file of the same name, is written beside it.
        shares: The share of each source, as positive numbers whose sum does not matter. None: that of its size.
        rows: Number of rows to write. None: as many as the shares allow without repeating a row.
        seed: Seed of the choice and of the order.

    Returns:
        The manifest; its `counts` has the rows that were written, in all and from each source.

    Raises:
        UserError: An argument is out of range, a source has too few rows, or a file cannot be written.
    """
    target = Path(out)
    if len(data) < 2:
        raise UserError(f"{len(data)} source is given\nfix: give two or more to mix")
    wanted = [float(len(each)) for each in data] if shares is None else list(shares)
    if len(wanted) != len(data):
        raise UserError(f"{len(wanted)} shares are given for {len(data)} sources\nfix: give one for each")
    for share in wanted:
        require_positive("mix", shares=share)
    require_at_least(len(data), "mix", rows=rows)
    check_out(target, [each.path for each in data])
    sizes = _sizes([len(each) for each in data], wanted, rows)
    for each, size in zip(data, sizes, strict=True):
        if size > len(each):
            raise UserError(
                f"{size:,} rows of {each.name} are wanted, and it has {len(each):,}\n"
                "fix: ask for fewer rows, or a smaller share of it"
            )
    names = [*names_of(data), "source"]
    write_rows(target, names, _drawn(data, sizes, seed))
    counts = {
        "written": sum(sizes),
        "by_source": [{"path": each.name, "rows": size} for each, size in zip(data, sizes, strict=True)],
    }
    settings = {"shares": shares, "rows": rows, "seed": seed}
    return write_manifest(target, "cse data mix", data, settings, counts, [target])


def _sizes(there: Sequence[int], shares: Sequence[float], rows: int | None) -> list[int]:
    """The number of rows of each source; the largest remainders are rounded up, so that the sum is `rows`."""
    parts = [share / sum(shares) for share in shares]
    if rows is None:
        rows = int(min(size / part for size, part in zip(there, parts, strict=True)) + 1e-9)
    exact = [rows * part for part in parts]
    sizes = [int(size + 1e-9) for size in exact]
    order = sorted(range(len(exact)), key=lambda i: (sizes[i] - exact[i], i))
    for i in order[: rows - sum(sizes)]:
        sizes[i] += 1
    return sizes


def _drawn(data: Sequence[Dataset], sizes: Sequence[int], seed: int) -> Iterator[Record]:
    """The rows in their order."""
    chosen: list[NDArray[np.int64]] = [
        np.random.default_rng(derive("mix", seed, place)).permutation(len(each))[:size]
        for place, (each, size) in enumerate(zip(data, sizes, strict=True))
    ]
    source = np.repeat(np.arange(len(data)), sizes)
    order = np.random.default_rng(derive("mix", seed, "order")).permutation(source)
    each = [records(rows, picked.tolist()) for rows, picked in zip(data, chosen, strict=True)]
    for place in order.tolist():
        yield {**next(each[place]), "source": data[place].name}
