"""metrics.jsonl: one line an evaluation, cut back on resume to what the saved state has seen."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path


class MetricsLog:
    """An append-only file of JSON lines."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def cut(self, size: int) -> None:
        """Drop everything after the first `size` bytes."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.truncate(size)

    def append(self, record: Mapping[str, float]) -> int:
        """Add a line; returns the file's length in bytes."""
        with self.path.open("ab") as file:
            file.write((json.dumps(record) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())
            return file.tell()
