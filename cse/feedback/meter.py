"""Limits on requests: rate limits, and caps that end a job in an orderly way."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

_WINDOW = 60.0  # seconds of a rate limit
_NAP = 0.05  # seconds between two checks while waiting


class Halted(Exception):
    """The job is ending for another reason; this question was not asked."""


class Stop(Exception):
    """The job ends in an orderly way, and all answers are kept. `code` is the exit code."""

    def __init__(self, reason: str, *, code: int = 3) -> None:
        super().__init__(reason)
        self.reason, self.code = reason, code
        self.answered = ""  # the progress of the job, in words


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one invocation, in requests or dollars; prices are of a million tokens. None means no limit."""

    requests_per_minute: int | None = None
    max_requests: int | None = None
    max_cost: float | None = None
    price_in: float | None = None
    price_out: float | None = None

    def cost(self, tokens_in: int, tokens_out: int) -> float | None:
        """The cost in dollars; None if a price is unknown."""
        if self.price_in is None or self.price_out is None:
            return None
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6


@dataclass(slots=True)
class _Sum:
    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0


class Meter:
    """Admits requests one by one; all threads share it. When `halted` is set, a wait raises `Halted`.

    Before a request, an upper estimate of its tokens is reserved; after it, the reservation is replaced by the tokens
    that it used. If the reservations of requests in progress could exceed a cap, the next request waits for them.
    """

    def __init__(
        self, limits: Limits, *, clock: Callable[[], float] = time.monotonic, halted: threading.Event | None = None
    ) -> None:
        self.limits = limits
        self.halted = halted or threading.Event()
        self.used = _Sum()
        self._held = _Sum()
        self._clock = clock
        self._lock = threading.Lock()
        self._recent = deque[float]()  # the times of the requests of the last minute
        self._not_before = 0.0

    def admit(self, tokens_in: int, tokens_out: int) -> None:
        """Wait until a request with these numbers of tokens is allowed, and reserve it; Stop if a cap is reached."""
        while True:
            if self.halted.is_set():
                raise Halted
            with self._lock:
                wait = self._wait(tokens_in, tokens_out)
                if wait <= 0:
                    self.used.requests += 1
                    self._held.requests += 1
                    self._held.tokens_in += tokens_in
                    self._held.tokens_out += tokens_out
                    self._recent.append(self._clock())
                    return
            self.halted.wait(min(wait, 1.0))

    def settle(self, reserved: tuple[int, int], used: tuple[int, int]) -> None:
        """Replace a reservation by the tokens that the request used: (0, 0) if it was not answered."""
        with self._lock:
            self._held.requests -= 1
            self._held.tokens_in -= reserved[0]
            self._held.tokens_out -= reserved[1]
            self.used.tokens_in += used[0]
            self.used.tokens_out += used[1]

    def hold(self, seconds: float) -> None:
        """Admit no request for this number of seconds, as the endpoint asked."""
        with self._lock:
            self._not_before = max(self._not_before, self._clock() + seconds)

    def _wait(self, tokens_in: int, tokens_out: int) -> float:
        """Seconds until the request is allowed; 0 or less if it is allowed now."""
        cap = self._cap(tokens_in, tokens_out)
        if cap is not None:
            if not self._held.requests:
                raise Stop(cap)
            return _NAP
        moment = self._clock()
        while self._recent and self._recent[0] <= moment - _WINDOW:
            self._recent.popleft()
        most, wait = self.limits.requests_per_minute, 0.0
        if most is not None and len(self._recent) >= most:
            wait = self._recent[-most] + _WINDOW - moment
        return max(self._not_before - moment, wait)

    def _cap(self, tokens_in: int, tokens_out: int) -> str | None:
        """The cap that this request could exceed, in words; None if it exceeds no cap."""
        limits, total_in = self.limits, self.used.tokens_in + self._held.tokens_in + tokens_in
        total_out = self.used.tokens_out + self._held.tokens_out + tokens_out
        if limits.max_requests is not None and self.used.requests >= limits.max_requests:
            return f"the cap of {limits.max_requests:,} requests is reached (--max-requests)"
        cost = limits.cost(total_in, total_out)
        if limits.max_cost is not None and cost is not None and cost > limits.max_cost:
            return f"the next request could pass the cap of ${limits.max_cost:g} (--max-cost)"
        return None
