"""Where fetched and derived files live, and how anything is written to disk: whole, or not at all."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cse.errors import UserError

_counter = itertools.count()
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h


def cache_dir() -> Path:
    """The folder of everything that can be fetched or computed again: `CSE_CACHE`, or ~/.cache/cse."""
    return Path(os.environ.get("CSE_CACHE") or "~/.cache/cse").expanduser()


@contextmanager
def writing_cache(what: str) -> Iterator[None]:
    """Say in words that the cache cannot be written: no room, no permission.

    Raises:
        UserError: The block raised an OSError.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{what}: cannot write to the cache {cache_dir()}: {error.strerror or error}\n"
            "Set CSE_CACHE to a folder that can be written and has room, about 1 GB."
        ) from error


@contextmanager
def atomic_dir(target: Path) -> Iterator[Path]:
    """A new folder to fill, which takes the place of `target` when the block ends well.

    A failure in the block, a kill or a full disk leaves the old `target` as it was. Folders that killed runs left
    beside it are removed. Processes that may write one target at once need a lock of their own for `target` to be
    written once; without it the last one wins, whole.

    Yields:
        An empty folder beside `target`, on the same file system.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    recover(target)
    scratch = _beside(target, "tmp")
    scratch.mkdir()
    try:
        yield scratch
        _fsync_tree(scratch)
        _put(scratch, target)
    finally:
        _remove(scratch)  # by now the old folder, if there was one


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `target` when the block ends well; as `atomic_dir`.

    Yields:
        A path beside `target`, where nothing is yet.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    recover(target)
    scratch = _beside(target, "tmp")
    try:
        yield scratch
        _fsync(scratch)
        os.replace(scratch, target)
        _fsync(target.parent)
    finally:
        _remove(scratch)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    with atomic_file(path) as scratch:
        scratch.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, content: object) -> None:
    """Write a JSON file that people can read, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not JSON, or not UTF-8.
    """
    return json.loads(path.read_text(encoding="utf-8"))


def recover(target: Path) -> None:
    """Clear what dead processes left beside `target`, and put the old one back if one died between two renames."""
    for old in _leftovers(target, "old"):
        if target.exists():
            _remove(old)
        else:
            os.rename(old, target)
    for scratch in _leftovers(target, "tmp"):
        _remove(scratch)


def sha256_file(path: Path) -> str:
    """The sha256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _beside(target: Path, kind: str) -> Path:
    """A hidden name beside `target` that says whose it is: `.NAME.HOST.PID.N.KIND`."""
    return target.with_name(f".{target.name}.{_host()}.{os.getpid()}.{next(_counter)}.{kind}")


def _leftovers(target: Path, kind: str) -> list[Path]:
    """Hidden names beside `target` that dead processes of this machine made, oldest name first."""
    start, end = f".{target.name}.{_host()}.", f".{kind}"
    names = sorted(n for n in os.listdir(target.parent) if n.startswith(start) and n.endswith(end))
    return [target.with_name(n) for n in names if _dead(n.removeprefix(start).removesuffix(end).split(".")[0])]


def _host() -> str:
    """This machine's name without dots; a process id means nothing on another machine of a shared disk."""
    return socket.gethostname().replace(".", "-")


def _dead(pid: str) -> bool:
    """Whether no process has this id. A text that is not an id is not ours, and counts as alive."""
    if sys.platform == "win32":  # there `os.kill` would end the process, whatever the signal
        import psutil

        return pid.isdecimal() and not psutil.pid_exists(int(pid))
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (ValueError, OSError):
        return False
    return False


def _put(scratch: Path, target: Path) -> None:
    """Rename `scratch` to `target`; an old `target` is then found under the name of `scratch`."""
    if not os.path.lexists(target):
        os.rename(scratch, target)
    elif not _exchange(scratch, target):
        aside = _beside(target, "old")  # `recover` puts it back if we die before the next line is done
        os.rename(target, aside)
        os.rename(scratch, target)
        os.rename(aside, scratch)
    _fsync(target.parent)


def _exchange(a: Path, b: Path) -> bool:
    """Swap two names in one step, so that `b` exists at every moment. Only Linux can; False elsewhere."""
    if sys.platform != "linux":
        return False
    import ctypes

    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is None:
        return False
    failed: int = renameat2(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE)
    return not failed


def _fsync_tree(folder: Path) -> None:
    """Have every file and folder below, and the folder itself, on the disk: a rename may not overtake the contents."""
    for path, _, names in os.walk(folder):
        for name in names:
            _fsync(Path(path, name))
        _fsync(Path(path))


def _fsync(path: Path) -> None:
    if sys.platform == "win32":  # which syncs neither folders nor files that are open for reading
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
