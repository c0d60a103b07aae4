"""A model repository in memory: immutable commits, and names that point to them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import PurePosixPath

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n"
ATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"


@dataclass(frozen=True)
class Blob:
    """A file's contents, and whether git holds them or a pointer to them."""

    data: bytes
    lfs: bool = False

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def pointer(self) -> bytes:
        return POINTER.format(oid=self.sha256, size=len(self.data)).encode()

    @property
    def oid(self) -> str:
        """As git names it."""
        held = self.pointer if self.lfs else self.data
        return hashlib.sha1(b"blob %d\0" % len(held) + held).hexdigest()

    @property
    def etag(self) -> str:
        """What names the contents: sha256 of a large file, git's name of another."""
        return self.sha256 if self.lfs else self.oid


@dataclass(frozen=True)
class Commit:
    files: dict[str, Blob]
    title: str
    author: str
    parent: str | None = None
    number: int = 0

    @property
    def sha(self) -> str:
        lines = [f"{path} {blob.oid}" for path, blob in sorted(self.files.items())]
        text = "\n".join([str(self.parent), self.title, self.author, str(self.number), *lines])
        return hashlib.sha1(text.encode()).hexdigest()


@dataclass
class Repository:
    """Commits by their sha, and refs: `refs/heads/main`, `refs/tags/v1`, `refs/pr/1`."""

    name: str
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)  # large files by sha256, committed or not
    parts: dict[tuple[str, int], bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.add("refs/heads/main", Commit({".gitattributes": Blob(ATTRIBUTES)}, "initial commit", "hub"))

    def add(self, ref: str, commit: Commit) -> str:
        self.commits[commit.sha] = commit
        self.refs[ref] = commit.sha
        return commit.sha

    def resolve(self, revision: str) -> str | None:
        """The sha that a branch, tag, pull request, or sha means."""
        names = (f"refs/heads/{revision}", f"refs/tags/{revision}", revision)
        return next((self.refs[n] for n in names if n in self.refs), revision if revision in self.commits else None)

    def commit(self, ref: str, onto: str, adds: dict[str, Blob], removes: set[str], title: str, author: str) -> str:
        """One commit on top of `onto`, to which `ref` then points."""
        files = {path: blob for path, blob in self.commits[onto].files.items() if path not in removes} | adds
        return self.add(ref, Commit(files, title, author, onto, len(self.commits)))

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """What lies there."""
        return {path: blob.data for path, blob in self.commits[self.resolve(revision) or ""].files.items()}

    def head(self, revision: str = "main") -> Commit:
        return self.commits[self.resolve(revision) or ""]

    def history(self, revision: str = "main") -> list[str]:
        """Titles, newest first."""
        titles, sha = [], self.resolve(revision)
        while sha:
            titles.append(self.commits[sha].title)
            sha = self.commits[sha].parent
        return titles

    def tree(self, sha: str, under: str = "") -> list[dict[str, object]]:
        """Files and folders below a folder, as the Hub lists them."""
        files = {p: b for p, b in sorted(self.commits[sha].files.items()) if p.startswith(f"{under}/" if under else "")}
        folders = {str(f) for p in files for f in PurePosixPath(p).parents if str(f) not in {".", under}}
        return [*({"type": "directory", "oid": "0" * 40, "size": 0, "path": f} for f in sorted(folders))] + [
            describe(path, blob) for path, blob in files.items()
        ]


def describe(path: str, blob: Blob) -> dict[str, object]:
    """A file, as the Hub lists it."""
    entry: dict[str, object] = {"type": "file", "oid": blob.oid, "size": len(blob.data), "path": path}
    if blob.lfs:
        entry["lfs"] = {"oid": blob.sha256, "size": len(blob.data), "pointerSize": len(blob.pointer)}
    return entry
