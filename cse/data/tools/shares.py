"""Splits rows into files that have no text in common, and mixes those of several sources into one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cse.data.datasets import Dataset
from cse.data.part import Part, divide, text_keys
from cse.data.tools.writing import Record, check_out, names_of, records, write_manifest, write_rows
from cse.errors import UserError, require_at_least, require_positive, require_within
from cse.seeding import derive


def split(*data: Dataset, out: str | Path, dev: float = 0.05, test: float = 0.0, seed: int = 42) -> dict[str, Any]:
    """Write rows as `NAME-train`, `NAME-dev` and `NAME-test`, such that no text is in two of them.

    Rows that share an anchor or a positive, also of different sources, are in one part, as in
    `cse.evaluation.HeldOut`; rows that are linked to more others than a part has room for are in train. A hard negative
    that is a text of another part is left out of its row.

    Args:
        data: The rows, all of one class.
        out: `pairs.parquet` or `pairs.jsonl` writes pairs-train, pairs-dev and pairs-test in that format, and the
            manifest pairs.json.
        dev: Share of the rows of each source in dev, in [0, 1).
        test: Share in test.
        seed: Seed of the choice, which otherwise depends on the texts alone.

    Returns:
        The manifest; its `counts` has the rows of each part, rows that are `linked` to too many others, and the
        `negatives` that were left out.

    Raises:
        UserError: An argument is out of range, a file cannot be written, or a part would have no row.
    """
    require_within("[0, 1)", "split", dev=dev, test=test)
    if not 0 < dev + test < 1:
        raise UserError(f"split.dev is {dev} and split.test is {test}\nfix: give shares whose sum is in (0, 1)")
    target = Path(out)
    shares = {name: share for name, share in (("test", test), ("dev", dev)) if share}
    files = {name: target.with_stem(f"{target.stem}-{name}") for name in ("train", *reversed(shares))}
    check_out(target, [each.path for each in data], list(files.values()))
    names = names_of(data)
    parts, counts = _parts(list(data), shares, seed)
    for name in files:
        write_rows(files[name], names, (row for part in parts[name] for row in records(part)))
    settings = {"dev": dev, "test": test, "seed": seed}
    return write_manifest(target, "cse data split", data, settings, counts, list(files.values()))


def _parts(data: list[Dataset], shares: dict[str, float], seed: int) -> tuple[dict[str, list[Part]], dict[str, int]]:
    """The parts by name, of each source, and counts of what they have and lack."""
    left: list[Dataset] = data
    parts: dict[str, list[Part]] = {}
    counts = dict.fromkeys(("train", *reversed(shares)), 0)
    linked = 0
    for name, share in shares.items():
        rooms = [round(share * len(each)) for each in data]
        found = divide(left, rooms, seed)
        parts[name] = [each.held for each in found if each.held is not None]
        linked = max(linked, sum(each.linked for each in found))
        left = [each.kept for each in found]
        if not parts[name] or not any(map(len, left)):
            raise UserError(
                f"split.{name} is {share}, which leaves no row for {'train' if parts[name] else name} of "
                f"{sum(map(len, data))}: {linked} rows share texts with too many others\n"
                "fix: give another share, or more data"
            )
    parts["train"] = [part for part in left if isinstance(part, Part) and len(part)]
    before = sum(_negatives(each) for each in data)
    for name in reversed(shares):
        others = text_keys([part for other in parts if other != name for part in parts[other]])
        parts[name] = [part.with_negatives(others) for part in parts[name]]
    for name in counts:
        counts[name] = sum(map(len, parts[name]))
    after = sum(_negatives(part) for each in parts.values() for part in each)
    return parts, counts | {"linked": linked, "negatives": before - after}


def _negatives(data: Dataset) -> int:
    return sum(max(0, len(row) - 1 - data.num_positives) for block in data.blocks() for row in block)


def mix(
    *data: Dataset, out: str | Path, shares: Sequence[float] | None = None, rows: int | None = None, seed: int = 42
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
