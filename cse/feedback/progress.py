"""How a job goes on: a bar on a terminal, a line from time to time elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

EVERY = 10.0  # seconds between two lines


class Shown:
    """Shows progress.

    Args:
        console: Where; standard output by default.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._bar: Progress | None = None
        self._task: Any = None
        self._what, self._total, self._done, self._asked, self._began, self._said = "", 0, 0, 0, 0.0, 0.0

    def start(self, what: str, total: int) -> None:
        """Begin a stage."""
        self.stop()
        self._what, self._total, self._done = what, total, 0
        self._began = self._said = time.monotonic()
        self.line("asking", f"{what}: {total:,} questions")
        if self._console.is_terminal:
            columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, TextColumn("{task.fields[trouble]}"), console=self._console, transient=True)
            self._task = self._bar.add_task("", total=total, trouble="")
            self._bar.start()

    def advance(self, count: int, asked: int, trouble: Counter[str]) -> None:
        """Move on."""
        self._done, self._asked = self._done + count, asked
        words = "  ".join(f"{number} {reason}" for reason, number in sorted(trouble.items()))
        moment = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, advance=count, trouble=words)
        elif moment - self._said >= EVERY or self._done == self._total:
            self._said = moment
            took = moment - self._began
            self.line(
                "answered", f"{self._done:,}/{self._total:,}  {asked:,} asked now  {took:.0f} s  {words}".rstrip()
            )

    def stop(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    @property
    def state(self) -> str:
        """How far it came, in words."""
        return f"{self._done:,} of {self._total:,} questions of {self._what!r} are settled"

    def line(self, key: str, text: str) -> None:
        """One line."""
        self._console.print(f"{key:10s} {text}", markup=False)
