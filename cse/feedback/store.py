"""The answers on disk, so that a question that was answered, and paid for, is never asked again."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cse.errors import UserError

_TABLES = """
CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, text TEXT NOT NULL, finish TEXT NOT NULL,
    input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL, estimated INTEGER NOT NULL, time TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS faults (key TEXT, kind TEXT, count INTEGER NOT NULL, PRIMARY KEY (key, kind));
"""
_FIELDS = "text, finish, input_tokens, output_tokens, estimated, time"
_WAIT = 60.0  # seconds that one process waits while another writes
_MANY = 500  # keys of one query; old versions of SQLite allow 999


@dataclass(frozen=True, slots=True)
class Reply:
    """The reply of a labeler at a time, ISO 8601 in UTC, and the tokens of question and answer.

    `finish` is `stop`, `length` (cut at the token limit) or `refusal`; `estimated` are tokens that were not reported.
    """

    text: str
    finish: str = "stop"
    input_tokens: int = 0
    output_tokens: int = 0
    estimated: bool = False
    time: str = ""


def now() -> str:
    """The time in UTC, to the second; that of SOURCE_DATE_EPOCH if it is set, as for reproducible builds."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    moment = datetime.fromtimestamp(int(epoch), timezone.utc) if epoch else datetime.now(timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def key_of(*address: Any) -> str:
    """The key of an answer: a hash of everything that the answer depends on."""
    return hashlib.sha256(json.dumps(address, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class Store:
    """Replies by key, in an SQLite file that survives a kill at any moment; safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=_WAIT, check_same_thread=False)
            self._database.executescript(_TABLES)
        except (OSError, sqlite3.Error) as error:
            raise UserError(f"--cache {path} cannot be used: {error}\nfix: give another folder") from error

    def get(self, keys: Sequence[str]) -> dict[str, Reply]:
        """The replies that the store has."""
        rows = self._select(f"SELECT key, {_FIELDS} FROM answers", keys)
        return {row[0]: Reply(row[1], row[2], row[3], row[4], bool(row[5]), row[6]) for row in rows}

    def put(self, replies: Iterable[tuple[str, Reply]]) -> None:
        """Add replies, all of them or none; a reply that the store has already is not replaced."""
        rows = [(k, r.text, r.finish, r.input_tokens, r.output_tokens, r.estimated, r.time) for k, r in replies]
        try:
            with self._lock, self._database:
                self._database.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        except sqlite3.Error as error:  # such as a full disk; stopping is better than paying for answers that are lost
            raise UserError(
                f"--cache {self.path}: the answers cannot be written: {error}\nfix: free some space and start again"
            ) from error

    def fault(self, key: str, kind: str) -> None:
        """Count a request that was not answered, such as an overloaded server or a lost connection."""
        with self._lock, self._database:
            self._database.execute(
                "INSERT INTO faults VALUES (?, ?, 1) ON CONFLICT (key, kind) DO UPDATE SET count = count + 1",
                (key, kind),
            )

    def faults(self, keys: Sequence[str]) -> dict[str, int]:
        """The number of requests for these keys that were not answered, by kind."""
        total: Counter[str] = Counter()
        for kind, count in self._select("SELECT kind, count FROM faults", keys):
            total[kind] += count
        return dict(sorted(total.items()))

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    def _select(self, query: str, keys: Sequence[str]) -> list[Any]:
        found: list[Any] = []
        for start in range(0, len(keys), _MANY):
            some = keys[start : start + _MANY]
            with self._lock:
                marks = ", ".join("?" * len(some))
                found += self._database.execute(f"{query} WHERE key IN ({marks})", some).fetchall()
        return found
