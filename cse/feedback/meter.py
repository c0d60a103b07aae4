"""How fast and how much may be asked: rate limits, and caps that end a job cleanly."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

_WINDOW = 60.0  # seconds of a rate limit
_NAP = 0.05  # seconds between two looks while waiting


class Halted(Exception):
    """The job is ending for another reason; this question was not asked."""


class Stop(Exception):
    """The job ends here, cleanly: what was answered is kept. `code` is the exit code."""

    def __init__(self, reason: str, *, code: int = 3) -> None:
        super().__init__(reason)
        self.reason, self.code = reason, code
        self.settled = ""  # how far the job came, in words


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one invocation; None where there is none.

    Attributes:
        requests_per_minute: Most requests in any minute.
        tokens_per_minute: Most tokens, of question and answer, in any minute.
        max_requests: Most requests, repeated ones counted again.
        max_tokens: Most tokens, of question and answer.
        max_cost: Most dollars, at the two prices.
        price_in: Dollars a million tokens of questions.
        price_out: Dollars a million tokens of answers.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_requests: int | None = None
    max_tokens: int | None = None
    max_cost: float | None = None
    price_in: float | None = None
    price_out: float | None = None

    def cost(self, tokens_in: int, tokens_out: int) -> float | None:
        """Dollars, where the prices are known."""
        if self.price_in is None or self.price_out is None:
            return None
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6


@dataclass(slots=True)
class _Sum:
    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0


class Meter:
    """Lets requests through one by one; shared by all threads.

    Before a request its tokens are reserved, by an estimate on the safe side, and afterwards replaced by those it took.
    Where the reservations of requests that are under way would break a cap, the next one waits for them.

    Args:
        limits: The limits to enforce; see `Limits`.
        clock: Seconds that only grow.
        halted: Set when the job is to end; a wait then raises.
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
        self._recent: deque[tuple[float, int]] = deque()  # (time, tokens) of the last minute
        self._not_before = 0.0

    def admit(self, tokens_in: int, tokens_out: int) -> None:
        """Wait until one request of about these sizes may be made, and reserve it.

        Raises:
            Stop: A cap is reached.
            Halted: The job is ending.
        """
        while True:
            if self.halted.is_set():
                raise Halted
            with self._lock:
                wait = self._wait(tokens_in, tokens_out)
                if wait <= 0:
                    self._reserve(tokens_in, tokens_out)
                    return
            self.halted.wait(min(wait, 1.0))

    def settle(self, reserved: tuple[int, int], used: tuple[int, int]) -> None:
        """Replace a reservation by what the request took: (0, 0) if it was not answered."""
        with self._lock:
            self._held.requests -= 1
            self._held.tokens_in -= reserved[0]
            self._held.tokens_out -= reserved[1]
            self.used.tokens_in += used[0]
            self.used.tokens_out += used[1]

    def hold(self, seconds: float) -> None:
        """Let nobody through for so long: the endpoint asked for it."""
        with self._lock:
            self._not_before = max(self._not_before, self._clock() + seconds)

    def _reserve(self, tokens_in: int, tokens_out: int) -> None:
        self.used.requests += 1
        self._held.requests += 1
        self._held.tokens_in += tokens_in
        self._held.tokens_out += tokens_out
        self._recent.append((self._clock(), tokens_in + tokens_out))

    def _wait(self, tokens_in: int, tokens_out: int) -> float:
        """Seconds until the request may be made; 0 or less for now."""
        cap = self._cap(tokens_in, tokens_out)
        if cap is not None:
            if not self._held.requests:
                raise Stop(cap)
            return _NAP
        moment = self._clock()
        while self._recent and self._recent[0][0] <= moment - _WINDOW:
            self._recent.popleft()
        return max(self._not_before - moment, self._rate_wait(moment, tokens_in + tokens_out))

    def _rate_wait(self, moment: float, tokens: int) -> float:
        """Seconds until enough of the last minute's requests are a minute old; a request on its own is let through."""
        requests, spent, wait = len(self._recent), sum(size for _, size in self._recent), 0.0
        most, most_tokens = self.limits.requests_per_minute, self.limits.tokens_per_minute
        for at, size in self._recent:
            if (most is None or requests < most) and (most_tokens is None or spent + tokens <= most_tokens):
                break
            requests, spent, wait = requests - 1, spent - size, at + _WINDOW - moment
        return wait

    def _cap(self, tokens_in: int, tokens_out: int) -> str | None:
        """Which cap this request would break."""
        limits, total_in = self.limits, self.used.tokens_in + self._held.tokens_in + tokens_in
        total_out = self.used.tokens_out + self._held.tokens_out + tokens_out
        if limits.max_requests is not None and self.used.requests >= limits.max_requests:
            return f"the cap of {limits.max_requests:,} requests is reached (--max-requests)"
        if limits.max_tokens is not None and total_in + total_out > limits.max_tokens:
            return f"the next request could pass the cap of {limits.max_tokens:,} tokens (--max-tokens)"
        cost = limits.cost(total_in, total_out)
        if limits.max_cost is not None and cost is not None and cost > limits.max_cost:
            return f"the next request could pass the cap of ${limits.max_cost:g} (--max-cost)"
        return None
