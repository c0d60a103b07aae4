"""Which process is slow: the time that each works on a step before it waits for the others."""

from __future__ import annotations

import statistics
import time

import torch

from cse import distributed


class Pace:
    """Measures a process's own share of its steps: loading a batch and encoding its views.

    After that all wait for the slowest, so that the time of a whole step is the same on each. An objective that does
    not use views is waited for before it encodes anything.

    Args:
        device: The device of the run. On a GPU its own clock counts, without waiting for it.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._total, self._steps = 0.0, 0
        self._start = self._ready = self._mark()

    def begin(self) -> None:
        """A step begins: its batch is loaded next."""
        self._start = self._ready = self._mark()

    def ready(self) -> None:
        """The views are encoded; the first call in a step counts."""
        if self._ready is self._start:
            self._ready = self._mark()

    def end(self) -> None:
        """The step is over, and what was computed on the device is known."""
        self._total += self._between()
        self._steps += 1

    def figures(self) -> dict[str, float]:
        """The seconds per step of the slowest process, its number, and the median; nothing on one process.

        All processes call this together. The next figures begin from here.
        """
        mine = self._total / max(1, self._steps)
        self._total, self._steps = 0.0, 0
        if distributed.world_size() == 1:
            return {}
        every = distributed.gather_objects(mine)
        slowest = max(range(len(every)), key=every.__getitem__)
        median = statistics.median_low(every)
        return {"own_s_median": round(median, 6), "own_s_slowest": round(every[slowest], 6), "slowest_process": slowest}

    def _mark(self) -> torch.cuda.Event | list[float]:
        if not self._on_gpu:
            return [time.perf_counter()]
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def _between(self) -> float:
        start, ready = self._start, self._ready
        if isinstance(start, list) and isinstance(ready, list):
            return ready[0] - start[0]
        assert isinstance(start, torch.cuda.Event)
        assert isinstance(ready, torch.cuda.Event)
        return float(start.elapsed_time(ready)) / 1000
