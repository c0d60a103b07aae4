"""Splits rows into train, dev and test files that have no text in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cse.data.datasets import Dataset
from cse.data.part import Part, divide, text_keys
from cse.data.tools.writing import check_out, names_of, records, write_manifest, write_rows
from cse.errors import UserError, require_within


def split(*data: Dataset, out: str | Path, dev: float = 0.05, test: float = 0.0, seed: int = 42) -> dict[str, Any]:
    """Write rows as `NAME-train`, `NAME-dev` and `NAME-test`, such that no text is in two of them.

    Rows that share an anchor or a positive, also of different sources, are in one part, as in
    `cse.evaluation.HeldOut`; rows that are linked to more others than a part has room for are in train. A hard negative
    that is a text of another part is left out of its row.

    Args:
        data: The rows, all of one class.
        out: `pairs.parquet` or `pairs.jsonl` writes pairs-train, pairs-dev and pairs-test in that format, and the
            manifest pairs.json.
        dev: The share of the rows of each source in dev, in [0, 1).
        test: The share in test.
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
