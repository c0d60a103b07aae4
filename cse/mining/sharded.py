"""A folder of mined rows in shards: each has the rows of some blocks of anchors, completely or not at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from cse import distributed
from cse.console import say
from cse.data.tools.writing import manifest_of
from cse.encoder.job import only_writer
from cse.errors import UserError
from cse.files import DAMAGED, read_shaped
from cse.inference.shards import Shard, claim

SHARED = {"pool"}  # a count that all shards have in common


def write_shards(
    folder: Path,
    shards: Sequence[Shard],
    rows: int,
    block: int,
    made_from: Mapping[str, Any],
    write: Callable[[Path, range], dict[str, Any]],
) -> dict[str, Any]:
    """Write those of these shards that do not exist, one after another; all processes of a group call it together.

    Args:
        folder: The folder to write to.
        shards: The shards.
        rows: Number of rows of all shards.
        block: Number of rows that are searched at once. A shard has whole blocks, so that the search of a row is the
            same whatever the number of shards.
        made_from: Everything that the shards depend on; a folder with something else is refused.
        write: A function of a file and a range of rows, which writes the file and its manifest, and returns the latter.

    Returns:
        The manifest of the last shard, with the counts of all of these shards.
    """
    every = [Shard(number, shards[0].of) for number in range(1, shards[0].of + 1)]
    blocks = -(-rows // block)
    parts = [shard.share(blocks) for shard in every]
    ranges = [range(part.start * block, min(part.stop * block, rows)) for part in parts]
    files = [{"file": f"{shard.name}.parquet", "rows": len(part)} for shard, part in zip(every, ranges, strict=True)]
    _on_the_first(lambda: claim(folder, made_from, files, {}))
    counts, manifest = Counter[str](), dict[str, Any]()
    for shard in shards:
        file = folder / f"{shard.name}.parquet"
        with ExitStack() as held:
            _on_the_first(lambda: held.enter_context(only_writer(file)))  # noqa: B023  it is called at once
            if distributed.broadcast(file.exists() and manifest_of(file).exists()):
                manifest = _read(manifest_of(file))
            else:
                manifest = write(file, ranges[shard.number - 1])
        counts.update({name: count for name, count in manifest["counts"].items() if name not in SHARED})
        if not distributed.rank():
            say("shard", f"{shard}   {manifest['counts']['negatives']:,} negatives")
    manifest["counts"] = {"anchors": 0, "pool": manifest["counts"]["pool"]} | counts
    return manifest


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = read_shaped(path, {"counts": {"negatives": int, "pool": int, "*": int}})
    except DAMAGED as error:
        raise UserError(
            f"{path} is damaged: {error}\nfix: remove it and its .parquet file; they are mined again"
        ) from None
    return found


def _on_the_first(work: Callable[[], Any]) -> None:
    """Let the first process of the group do something; all raise the UserError that it raises."""

    def own() -> None:
        if not distributed.rank():
            work()

    distributed.gather_results(own)
