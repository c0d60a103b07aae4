"""Finds the rows that a path names: a file, shards, a folder of BEIR, an asset, or a data set on the Hub."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from cse.assets.hub import explain, reachable, without_retries
from cse.assets.hub import file as fetch
from cse.data.reading.beir import BeirReader, is_beir
from cse.data.reading.files import KINDS, PARALLEL, FileReader, kind, matching, read_records, shards, with_entries
from cse.data.reading.rows import Column, Reader, Row, outer_names, require
from cse.errors import UserError
from cse.files import require_name


def open_path(path: str, split: str = "train") -> Reader:
    """Open the source that a path names; see `cse.data.datasets` for the paths."""
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
    """Read the rows of a path, one by one. A .txt file has one column, whatever its name; see `open_path`."""
    return open_path(path, split).read(columns)


def column_names(path: str, split: str = "train") -> list[str]:
    """The names of all columns of a source; none for a .txt file; see `cse.data.reading.files.names_of`."""
    return open_path(path, split).names() or []


STREAM = "stream:"
FIX = "check the name and the network (HF_HUB_OFFLINE, HF_ENDPOINT), or give a file"
HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?::(?P<file>[^:@]+))?(?:@(?P<revision>[\w./-]+))?")
LISTED = re.compile(r"(?s)(Config name is missing|BuilderConfig .* not found|Unknown split).*?\[(?P<names>.*?)\]")


class HubReader(Reader):
    """A data set on the Hub, downloaded by the `datasets` library, or read as a stream."""

    def __init__(self, path: str, split: str) -> None:
        self.what = path
        self.streaming = path.startswith(STREAM)
        found = HUB_ID.fullmatch(path.removeprefix(STREAM))
        name = [found["repo"], *([found["file"]] if found["file"] else [])] if found else [path.removeprefix(STREAM)]
        options: dict[str, Any] = {"streaming": True} if self.streaming else {}
        if found and found["revision"]:
            options["revision"] = found["revision"]
        with self._errors():
            from datasets import load_dataset

            with without_retries():
                self._table = load_dataset(*name, split=split, **options)
            self._first: list[dict[str, Any]] = list(islice(self._table, 1)) if self.streaming else []

    def names(self) -> list[str]:
        """The names of the columns; of a stream, those of its first record."""
        if self.streaming:
            return [name for row in self._first for name in with_entries(row)]
        names = list(self._table.column_names)
        return with_entries(self._table[0]) if PARALLEL in names and len(self._table) else names

    def key(self) -> str | None:
        """The fingerprint of the library; None for a stream."""
        return None if self.streaming else str(self._table._fingerprint)

    def read(self, columns: Sequence[Column]) -> Iterator[Row]:
        """The rows; a stream starts again."""
        require(columns, self.names(), self.what)
        if self.streaming:
            return read_records(self._arriving(), columns, self.what)
        return read_records(self._table.select_columns(outer_names(columns, self.names())), columns, self.what)

    def _arriving(self) -> Iterator[dict[str, Any]]:
        with self._errors():
            yield from self._table

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # the Hub, its client and the network raise many kinds of errors
            listed = LISTED.search(str(error))
            if isinstance(error, ValueError) and listed:
                names = ", ".join(listed["names"].replace("'", "").split(", ")[:20])
                what = "split" if listed[1].startswith("Unknown") else "configuration"
                repo = self.what.partition(":")[0] if not self.streaming else self.what
                fix = "--data.split=NAME" if what == "split" else f"name one: {repo}:{names.split(', ')[0]}"
                raise UserError(
                    f"data.path {self.what} needs the name of a {what}; it has {names}\nfix: {fix}"
                ) from error
            offline = isinstance(error, ConnectionError) and not reachable()  # then it was asked for in the cache only
            raise explain(f"data.path {self.what}", error, offline=offline, fix=FIX) from error
