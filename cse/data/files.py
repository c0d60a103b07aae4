"""Rows of files: one file, or shards of one kind."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from xxhash import xxh3_128

from cse.data.readers import KINDS, kind, names_of, read_file
from cse.data.rows import Column, Reader, Row
from cse.errors import UserError
from cse.files import require_regular


class FileReader(Reader):
    """One file or several of one kind, whose columns agree.

    Raises:
        UserError: A file does not exist, or its kind is unknown.
    """

    def __init__(self, path: str, files: Sequence[Path]) -> None:
        self.what, self.files = path, list(files)
        for file in self.files:
            _require_file(file, path)

    def names(self) -> list[str] | None:
        """The names of the columns of the first file; None for .txt files."""
        return None if kind(self.files[0]) == ".txt" else names_of(self.files[0])

    def key(self) -> str:
        """A hash of all bytes."""
        digest = xxh3_128()
        for file in self.files:
            digest.update(f"{kind(file)} {file.stat().st_size} ".encode())
            with file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
        return str(digest.hexdigest())

    def read(self, columns: Sequence[Column]) -> Iterator[Row]:
        """The rows, file by file."""
        if len(self.files) > 1 and not all(isinstance(c.name, int) for c in columns):
            self._require_agreement()
        return chain.from_iterable(read_file(file, columns) for file in self.files)

    def _require_agreement(self) -> None:
        first, *others = self.files
        wanted = set(names_of(first))
        for file in others if kind(first) not in {".txt", ".jsonl"} else []:
            differing = wanted ^ set(names_of(file))
            if differing:
                raise UserError(
                    f"data.path: {file} and {first} have different columns: only one has "
                    f"{', '.join(map(repr, sorted(differing)[:8]))}\nfix: give shards with the same columns"
                )


def shards(folder: Path, path: str) -> list[Path]:
    """The files of a folder, which must be of one kind; others, such as README.md, do not count."""
    files = sorted(file for file in folder.iterdir() if kind(file) in KINDS and not file.name.startswith("."))
    if not files:
        raise UserError(
            f"data.path is {path}, which is a folder without a {', '.join(KINDS)} file\n"
            f"fix: give a file or another folder; in it: {', '.join(_inside(folder)[:12]) or 'nothing'}"
        )
    return _of_one_kind(files, f"{path}, which is a folder")


def matching(path: str) -> list[Path]:
    """The files of a pattern."""
    pattern = Path(path).expanduser()
    found = Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor)))
    files = sorted(file for file in found if file.is_file())
    if not files:
        raise UserError(f"data.path is {path}: no file matches this pattern\nfix: give a pattern of existing files")
    return _of_one_kind(files, path)


def _of_one_kind(files: list[Path], path: str) -> list[Path]:
    kinds = sorted({kind(file) for file in files})
    if len(kinds) > 1:
        shown = ", ".join(file.name for file in files[:12])
        raise UserError(
            f"data.path is {path} with files of {len(kinds)} kinds: {shown}\n"
            f"fix: give one of them, or a pattern of one kind, such as '{files[0].parent}/*{kinds[0]}'"
        )
    return files


def _require_file(file: Path, path: str) -> None:
    if file.is_symlink() and not file.exists():
        raise UserError(f"data.path is {path}, a link to {file.readlink()}, which does not exist\nfix: give a file")
    if not file.exists():
        near = difflib.get_close_matches(file.name, _inside(file.parent), n=1)
        hint = f"did you mean {file.parent / near[0]}? " if near else ""
        raise UserError(
            f"data.path is {path}: there is no such file\nfix: {hint}give a {', '.join(KINDS)} file, asset:NAME, or a "
            "Hub id (org/name, org/name:file or stream:org/name)"
        )
    require_regular(file, "data.path")
    if kind(file) not in KINDS:
        raise UserError(
            f"data.path is {path}, whose format is unknown\nfix: give a file that ends in {', '.join(KINDS)}"
        )


def _inside(folder: Path) -> list[str]:
    """Some names in a folder, for a hint."""
    try:
        return sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))[:1000]
    except OSError:
        return []
