"""The environment of a run, which a reader needs to get the same numbers: versions, commit, machine."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

SECRETS = {
    "a Hugging Face token": r"(?<![A-Za-z0-9])hf_[A-Za-z0-9]{30,}",
    "an API key (sk-...)": r"(?<![A-Za-z0-9])sk-[A-Za-z0-9_-]{20,}",
    "an AWS access key": r"(?<![A-Za-z0-9])(?:AKIA|ASIA)[0-9A-Z]{16}(?![A-Za-z0-9])",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "a GitHub token": r"(?<![A-Za-z0-9])(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{40,})",
    "a Google API key": r"(?<![A-Za-z0-9])AIza[0-9A-Za-z_-]{35}",
    "a Slack token": r"(?<![A-Za-z0-9])xox[abprs]-[A-Za-z0-9-]{10,}",
    "a password in an address": r"https?://[^/\s:@\"']+:[^/\s@\"']+@",
}
SECRET_NAMES = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_?KEY)S?$", re.I)
SHAPE = {"recipe": str, "seed?": int, "packages?": {"*": str}, "note?": str}  # of env.json, for `read_shaped`
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

    packages, processor = versions(), platform.processor() or platform.machine()
    return {
        "recipe": recipe,
        "cse": packages.pop("cse"),
        "git": git_commit(),
        "python": packages.pop("python"),
        "platform": platform.platform(),
        "packages": packages,
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else processor,
        "seed": seed,
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


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


def secrets() -> list[tuple[str, re.Pattern[str]]]:
    """Patterns of well-known secrets, and the values of environment variables whose names say that they are secret."""
    found = [(what, re.compile(pattern)) for what, pattern in SECRETS.items()]
    for name, value in os.environ.items():
        if SECRET_NAMES.search(name) and len(value) >= 12:
            found.append((f"the value of {name}", re.compile(re.escape(value))))
    return found


def secret_in(text: str) -> str:
    """Say what secret a text holds, in words that do not repeat it; empty for none."""
    return next((what for what, pattern in secrets() if pattern.search(text)), "")


def is_secret(name: str) -> bool:
    """Tell whether the name of a setting says that its value is a secret."""
    return bool(SECRET_NAMES.search(name)) or name.lower() in {"authorization", "bearer"}
