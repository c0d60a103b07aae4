"""The one switch of all accelerations: CSE_FAST=0 in the environment turns them off."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_enabled: ContextVar[bool] = ContextVar("cse_fast", default=os.environ.get("CSE_FAST", "1") != "0")


def enabled() -> bool:
    """Whether accelerations are in use."""
    return _enabled.get()


@contextmanager
def off() -> Iterator[None]:
    """Within, no acceleration is in use, and a model that is built stays without them."""
    token = _enabled.set(False)
    try:
        yield
    finally:
        _enabled.reset(token)
