"""The cache folder, and writing to disk in a way that never leaves an incomplete file or folder."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import shutil
import socket
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, cycle
from pathlib import Path
from tempfile import TemporaryFile
from types import NoneType
from typing import Any, Literal

from cse.errors import UserError

DAMAGED = (OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError)  # of reading a stranger's JSON
LARGEST = 1e15  # of a number in a file
_counter = itertools.count()


def cache_dir() -> Path:
    """The folder of everything that can be fetched or computed again: `CSE_CACHE`, or ~/.cache/cse."""
    return Path(os.environ.get("CSE_CACHE") or "~/.cache/cse").expanduser()


@contextmanager
def writing_cache(what: str) -> Iterator[None]:
    """Turn a failure to write to the cache, such as a full disk, into a message for the user."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{what}: cannot write to the cache {cache_dir()}: {error.strerror or error}\n"
            "fix: set CSE_CACHE to a writable folder with about 1 GB of free space"
        ) from error


@contextmanager
def atomic_dir(target: Path) -> Iterator[Path]:
    """A new, empty folder beside `target`, which replaces it when the block ends without an error.

    After an error, a kill or a full disk, the old `target` is unchanged. Folders that killed processes left beside it
    are removed. If several processes write one target at once, the last one wins; they need a lock of their own if only
    one of them is to do the work. The files get the mode that the umask asks for, whoever writes them.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    recover(target)
    scratch = _beside(target, "tmp")
    scratch.mkdir()
    try:
        yield scratch
        _finish(scratch)
        _put(scratch, target)
    finally:
        _remove(scratch)  # after the renames, this is the old folder


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """A path beside `target` to write to, which replaces it when the block ends without an error; see `atomic_dir`."""
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


def check_writable(out: Path, option: str = "--out", *, kind: Literal["file", "folder"] = "file") -> None:
    """Check that a file or a folder that `option` gave can be written, before the work starts."""
    require_name(str(out), option)
    broken = next((path for path in (out, *out.absolute().parents) if path.is_symlink() and not path.exists()), None)
    if broken is not None:
        raise UserError(
            f"{option} {out} cannot be written: {broken} is a link to {broken.readlink()}, which does not exist\n"
            "fix: give another path"
        )
    if kind == "file" and out.is_dir():
        raise UserError(f"{option} {out} is a folder and cannot be written\nfix: give the path of a file in it")
    if kind == "folder" and out.exists() and not out.is_dir():
        raise UserError(f"{option} {out} is a file, and a folder is to be written\nfix: give a new folder")
    folder = next(parent for parent in out.absolute().parents if parent.exists())
    try:  # permissions do not tell of file systems such as /proc
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = "is not a folder" if not folder.is_dir() else f"takes no new file ({error.strerror})"
        raise UserError(f"{option} {out} cannot be written: {folder} {reason}\nfix: give another path") from error


def name_of(model: str | os.PathLike[str], option: str = "model") -> str:
    """The name of a checkpoint: a folder, `asset:NAME` or Hub id, checked by `require_name`."""
    name = os.fspath(model) if isinstance(model, os.PathLike) else model
    require_name(name, option)
    return str(name)


def require_name(path: object, option: str) -> None:
    """Check that a path is one, is not empty, can be a path here, and does not lead to itself by links."""
    if not isinstance(path, str | Path):
        raise UserError(f"{option} is {str(path)[:60]!r}, of type {type(path).__name__}\nfix: give a path or a name")
    if not str(path).strip():
        raise UserError(f"{option} is empty\nfix: give a path or a name; a variable of the shell may be unset")
    try:
        os.stat(path)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UserError(
                f"{option} is {str(path)[:40]!r}..., which is too long for the name of a file\nfix: give a path"
            ) from None
        if error.errno == errno.ELOOP:
            raise UserError(f"{option} {path} is a link that leads to itself\nfix: give another path") from None
    except ValueError:
        raise UserError(f"{option} is {str(path)[:40]!r}, with the character NUL\nfix: give a path or a name") from None


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, completely or not at all."""
    with atomic_file(path) as scratch:
        scratch.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, content: object) -> None:
    """Write an indented JSON file, completely or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file; an OSError if it cannot be read, a ValueError if it is not JSON or not UTF-8."""
    require_regular(path, "a file")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_shaped(path: Path, shape: Any) -> Any:
    """The content of a JSON file that another program may have written; a ValueError if it is a `misfit` of a shape."""
    found = read_json(path)
    if wrong := misfit(found, shape):
        raise ValueError(wrong)
    return found


def misfit(value: Any, shape: Any, where: str = "the file") -> str:
    """Say how a value of JSON differs from a shape; empty if it fits.

    Args:
        value: The value.
        shape: `str`, `bool`, `float` for a finite number, `int` for one that is whole and not negative, None; a tuple
            of shapes of which one fits, `()` for nothing; a list of the shape of all of its items, or of each of two;
            or a mapping by key, where `?` ends a key that may be missing, `*` is any other key, and other keys are
            free.
        where: The name of the value in the message.
    """
    if isinstance(shape, tuple):
        found = [misfit(value, one, where) for one in shape]
        return "" if "" in found else [f"{where} is too much", *found][-1]
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return f"{where} is not a mapping"
        named = {key.rstrip("?"): inner for key, inner in shape.items()}
        absent = next((key for key in shape if key[-1] not in "?*" and key not in value), None)
        each = (misfit(inner, named[key], key) for key, inner in value.items() if key in named)
        others = (misfit(inner, shape["*"], key) for key, inner in value.items() if "*" in shape and key not in named)
        return f"{absent} is missing" if absent else next(filter(None, chain(each, others)), "")
    if isinstance(shape, list):
        if not isinstance(value, list) or len(shape) not in {1, len(value)}:
            return f"{where} is not a list, or has another length"
        return next(filter(None, (misfit(v, s, where) for v, s in zip(value, cycle(shape), strict=False))), "")
    good = isinstance(value, (int, float) if shape is float else shape or NoneType)
    good &= shape is bool or not isinstance(value, bool)
    if good and isinstance(value, int | float):
        good = abs(value) < LARGEST and (shape is float or value >= 0)
    return "" if good else f"{where} is {str(value)[:40]!r}"


def write_sealed(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object that only cse is to change, with a sum of its content; `read_sealed` compares it."""
    write_json(path, {**content, "sum": _sum(content)})


def read_sealed(path: Path) -> dict[str, Any]:
    """The content that `write_sealed` wrote; a ValueError if it is another one, an OSError if it cannot be read."""
    found = read_json(path)
    if not isinstance(found, dict) or found.pop("sum", None) != _sum(found):
        raise ValueError("its content is not the one that was written, by its sum")
    return found


def _sum(content: Mapping[str, Any]) -> str:
    plain = json.loads(json.dumps(content))  # tuples as lists, and all keys as text
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects in a file of JSON lines that grows; a line that is half written is left out."""
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        found += [record] if isinstance(record, dict) else []
    return found


def write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write objects as a file of JSON lines."""
    with atomic_file(path) as scratch, scratch.open("w", encoding="utf-8", newline="\n") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def require_regular(path: Path, what: str) -> None:
    """Raise if a path that exists is a pipe, a socket or a device: to open one would wait for its writer."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise UserError(
            f"{what} is {path}, which is a pipe, a socket or a device\n"
            f"fix: give a regular file{f': cat {path} > FILE' if path.is_fifo() else ''}"
        )


def recover(target: Path) -> None:
    """Remove the leftovers of dead processes beside `target`; restore the old one if a process died between renames."""
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
    """A hidden path beside `target` that names its process: `.NAME.HOST.PID.N.KIND`."""
    return target.with_name(f".{target.name}.{_host()}.{os.getpid()}.{next(_counter)}.{kind}")


def _leftovers(target: Path, kind: str) -> list[Path]:
    """Hidden paths beside `target` that dead processes of this machine left, sorted by name."""
    start, end = f".{target.name}.{_host()}.", f".{kind}"
    names = sorted(n for n in os.listdir(target.parent) if n.startswith(start) and n.endswith(end))
    return [target.with_name(n) for n in names if _dead(n.removeprefix(start).removesuffix(end).split(".")[0])]


def _host() -> str:
    """The name of this machine, without dots. On a shared disk, process ids only have a meaning with it."""
    return socket.gethostname().replace(".", "-")


def _dead(pid: str) -> bool:
    """Tell whether no process has this id. A text that is not an id counts as alive, since another program wrote it."""
    import psutil  # type: ignore[import-untyped, unused-ignore]

    return pid.isdecimal() and not psutil.pid_exists(int(pid))


def _put(scratch: Path, target: Path) -> None:
    """Rename `scratch` to `target`; afterwards, an old `target` has the name of `scratch`."""
    if os.path.lexists(target):
        aside = _beside(target, "old")  # `recover` restores it if the process dies before the next line is done
        os.rename(target, aside)
        os.rename(scratch, target)
        os.rename(aside, scratch)
    else:
        os.rename(scratch, target)
    _fsync(target.parent)


def _finish(folder: Path) -> None:
    """Let all whom the umask lets read a new folder's files, and force it to the disk with all its content.

    safetensors lets their owner alone read them, and a rename may reach the disk before the content does.
    """
    asked = folder.stat().st_mode & 0o666  # the folder is new: its mode shows the umask, which no call only reads
    for path, _, names in os.walk(folder):
        for file in (Path(path, name) for name in names):
            mode = file.lstat().st_mode
            if stat.S_ISREG(mode) and mode & asked != asked:
                file.chmod(stat.S_IMODE(mode) | asked)
            _fsync(file)
        _fsync(Path(path))


def _fsync(path: Path) -> None:
    if sys.platform == "win32":  # Windows syncs neither folders nor files that are open for reading
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
