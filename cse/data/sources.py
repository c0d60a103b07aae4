"""Finds the rows that a path names: a file, shards, a folder of BEIR, an asset, or a data set on the Hub."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cse.assets.hub import file as fetch
from cse.data.beir import BeirReader, is_beir
from cse.data.files import FileReader, matching, shards
from cse.data.hub import FIX, HUB_ID, STREAM, HubReader
from cse.data.readers import KINDS, kind
from cse.data.rows import Column, Reader, Row
from cse.errors import UserError
from cse.files import require_name


def open_path(path: str, split: str = "train") -> Reader:
    """The source that a path names.

    Args:
        path: A .txt, .csv, .tsv, .jsonl or .parquet file, each also as .gz; a folder of files of one kind, or a pattern
            such as `data/*.jsonl`, whose files are read in the order of their names; `asset:NAME`; or a Hub id:
            `org/name`, `org/name:configuration`, `org/name:file`, each also with `@revision`, or `stream:org/name`,
            whose rows are read as they arrive, without a copy of the data set on disk.
        split: Split of a data set on the Hub.

    Raises:
        UserError: The source does not exist.
    """
    require_name(path, "data.path")
    if path.startswith(STREAM):
        return HubReader(path, split)
    if path.startswith("asset:"):
        from cse.assets import resolve

        return FileReader(path, [resolve(path)])
    local = Path(path).expanduser()
    hub = HUB_ID.fullmatch(path)
    if not local.exists() and any(mark in path for mark in "*?["):
        return FileReader(path, matching(path))
    if local.is_dir() and is_beir(local):
        return BeirReader(local, path, split)
    if local.exists() or hub is None or (not (hub["file"] or hub["revision"]) and kind(local) in KINDS):
        return FileReader(path, shards(local, path) if local.is_dir() else [local])
    if hub["file"] and kind(Path(hub["file"])) in KINDS:
        what, revision = f"data.path {path}", hub["revision"]
        return FileReader(
            path, [fetch(hub["repo"], hub["file"], kind="dataset", revision=revision, what=what, fix=FIX)]
        )
    return HubReader(path, split)


@contextmanager
def named(what: str) -> Iterator[None]:
    """Let a message of the reader, which names an option of recipes, name what was given instead of it."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace("data.path", what)) from error


def read(path: str, columns: Sequence[Column], split: str = "train") -> Iterator[Row]:
    """The rows of a path, one by one. A .txt file has one column, whatever its name; see `open_path`.

    Raises:
        UserError: The source does not exist, cannot be read, or lacks a column.
    """
    return open_path(path, split).read(columns)


def column_names(path: str, split: str = "train") -> list[str]:
    """The names of all columns of a source; none for a .txt file; see `cse.data.readers.names_of`.

    Raises:
        UserError: Same as `read`.
    """
    return open_path(path, split).names() or []
