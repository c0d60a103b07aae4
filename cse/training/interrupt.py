"""Ctrl-C, taken between steps."""

from __future__ import annotations

import signal
import threading
from typing import Any


class Interrupt:
    """Ctrl-C asks for a stop after the step at hand; a second one stops at once."""

    def __init__(self) -> None:
        self.wanted = False

    def __enter__(self) -> Interrupt:
        self.before: Any = None
        if threading.current_thread() is threading.main_thread():
            self.before = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        if self.before is not None:
            signal.signal(signal.SIGINT, self.before)

    def _on_signal(self, *_: object) -> None:
        if self.wanted:
            raise KeyboardInterrupt
        self.wanted = True
