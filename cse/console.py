"""The output of commands: lines of `key  text` and the progress of long work; and how Ctrl-C stops the work."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

SECONDS_BETWEEN_LINES = 10.0


class Advance(Protocol):
    """Reports progress."""

    def __call__(self, done: int, note: str = "") -> None:
        """`done` units of work are complete; `note` is a few words about them, such as the loss."""
        ...


def say(key: str, text: str = "") -> None:
    """Print one line to standard output, `key` in a column of 10 characters."""
    print(f"{key:10s} {text}".rstrip(), flush=True)  # noqa: T201


def quiet() -> None:
    """Silence the progress bars and notices of libraries; messages of `cse` go to standard error."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.basicConfig(stream=sys.stderr, format="%(message)s")
    logging.getLogger("cse").setLevel(logging.INFO)
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


@contextmanager
def progress(what: str, total: int, *, done: int = 0, lines: bool = True) -> Iterator[Advance]:
    """Show how far a piece of work is: a bar if standard error is a terminal, a line every 10 seconds otherwise.

    Of `total` units, `done` were complete before this process started. Work that reports its own events turns `lines`
    off. The function that it yields takes the number of complete units, `done` included.
    """
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(what, total) if lines else lambda done, note="": None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(
        *columns,
        TextColumn("{task.fields[note]}", markup=False),
        console=console,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # a redirected pipe would lose its lines to the terminal
    )
    with bar:
        task = bar.add_task("", total=total, completed=done, note="")
        yield lambda done, note="": bar.update(task, completed=done, note=note)


def _lines(what: str, total: int) -> Advance:
    first, start, last = 0, 0.0, 0.0

    def advance(done: int, note: str = "") -> None:
        nonlocal first, start, last
        now = time.monotonic()
        if not start:  # the rate counts from here: what was done before may come from an earlier process
            first, start, last = done, now, now
            if done:
                say(what, f"{done:,}/{total:,}  {note}")
        elif now - last >= SECONDS_BETWEEN_LINES and first < done < total:
            last, rate = now, (done - first) / (now - start)
            say(what, f"{done:,}/{total:,}  {rate:,.1f} per s  {(total - done) / rate:,.0f} s left  {note}")

    return advance


def inline(text: object) -> str:
    """A text within a line of Markdown: it has no line break and no HTML, and ends neither a cell nor a code span."""
    return " ".join(str(text).split()).replace("<", "&lt;").replace("`", "'").replace("|", "\\|")


def stop_signals() -> list[str]:
    """The signals that ask for a stop: Ctrl-C, those with which a cluster ends a job, and that of a closed terminal."""
    known = [name for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name)]
    ignored = hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN  # as `nohup` asks for
    return known[:-1] if ignored else known


class Interrupt:
    """A context in which a signal asks for a stop at the next convenient point; a second Ctrl-C stops at once.

    `wanted` is the number of the signal that asked for a stop; 0 for none.
    """

    def __init__(self) -> None:
        self.wanted = 0
        self.before: dict[int, Any] = {}
        self.terminals: list[int] = []

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():  # Python sets signal handlers there only
            known = [getattr(signal, name) for name in stop_signals()]
            self.terminals = [number for number in (1, 2) if os.isatty(number)]
            self.before = {number: signal.signal(number, self._on_signal) for number in known}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, _: object) -> None:
        if self.wanted and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.wanted = self.wanted or int(number)
        for terminal in self.terminals:
            if not os.isatty(terminal):  # it is closed: to write to it would fail, before everything is saved
                os.dup2(os.open(os.devnull, os.O_WRONLY), terminal)
