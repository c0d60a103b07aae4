"""What a reader needs to know to get the same numbers."""

from __future__ import annotations

import contextlib
import platform
import subprocess
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cse import __version__

PACKAGES = ("torch", "transformers", "sentence-transformers", "accelerate", "peft", "datasets", "tokenizers", "numpy")


def environment(recipe: str, seed: int) -> dict[str, Any]:
    """Versions, machine and seed of a run, as JSON."""
    import torch

    return {
        "recipe": recipe,
        "cse": __version__,
        "git": git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version(name) for name in PACKAGES},
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else _processor(),
        "seed": seed,
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def _processor() -> str:
    return platform.processor() or platform.machine()


def git_commit() -> str | None:
    """The commit of the package's checkout, with + if it is changed; None outside one."""
    here = Path(__file__).resolve().parents[2]
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
