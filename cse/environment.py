"""The environment of a run, which a reader needs to get the same numbers: versions, commit, machine."""

from __future__ import annotations

import contextlib
import platform
import subprocess
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "sentence-transformers", "accelerate", "peft", "datasets", "tokenizers", "numpy")


@cache
def cse_version() -> str:
    """The version of this package; from pyproject.toml in a checkout that is not installed."""
    for distribution in ("cse-embeddings", "cse"):  # the second one was its name before the first release
        with contextlib.suppress(PackageNotFoundError):
            return version(distribution)
    project = Path(__file__).resolve().parents[1] / "pyproject.toml"
    with contextlib.suppress(OSError):
        for line in project.read_text(encoding="utf-8").splitlines():
            if line.startswith("version = "):
                return line.split('"')[1]
    return "unknown"


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """The versions of Python, of cse and of those `packages` that are installed."""
    found = {"python": platform.python_version(), "cse": cse_version()}
    for name in packages:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def environment(recipe: str, seed: int) -> dict[str, Any]:
    """Versions, machine and seed of a run, as JSON."""
    import torch

    packages = versions()
    return {
        "recipe": recipe,
        "cse": packages.pop("cse"),
        "git": git_commit(),
        "python": packages.pop("python"),
        "platform": platform.platform(),
        "packages": packages,
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else _processor(),
        "seed": seed,
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def _processor() -> str:
    return platform.processor() or platform.machine()


def git_commit() -> str | None:
    """The commit of the checkout that holds the package, with `+` if it has changes; None outside of one."""
    here = Path(__file__).resolve().parents[1]
    if not (here / ".git").exists():
        return None
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        commit = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty=+", "--exclude=*"],
            check=True,
            capture_output=True,
            text=True,
        )
        return commit.stdout.strip()
    return None
