"""The switches of accelerations: CSE_FAST=0 in the environment turns all off, `in_one_pass` those that cut a batch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_enabled: ContextVar[bool] = ContextVar("cse_fast", default=os.environ.get("CSE_FAST", "1") != "0")
_cuts: ContextVar[bool] = ContextVar("cse_cuts", default=True)


def enabled() -> bool:
    """Tell whether accelerations are in use: not in a graph of torch.compile, which has its own."""
    return not torch.compiler.is_dynamo_compiling() and _enabled.get()


@contextmanager
def off() -> Iterator[None]:
    """Within, no acceleration is in use, and a model that is built stays without them."""
    token = _enabled.set(False)
    try:
        yield
    finally:
        _enabled.reset(token)


def may_cut() -> bool:
    """Tell whether a batch may be encoded in several passes, as many as suit its texts."""
    return enabled() and _cuts.get()


@contextmanager
def in_one_pass() -> Iterator[None]:
    """Within, a batch is encoded in one pass, so that processes run each layer equally often."""
    token = _cuts.set(False)
    try:
        yield
    finally:
        _cuts.reset(token)
