"""Work that a thread does ahead: the next block of texts is read and tokenized while one is encoded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def ahead(work: Callable[[T], R], items: Iterable[T]) -> Iterator[Iterator[R]]:
    """What `work` makes of each item, in order; a thread makes the next one while the caller uses one.

    The thread takes the items as well, and is one item ahead, so that two results are in memory at most. What it raises
    is raised in its turn, after the results before it. It has ended when the block ends.
    """
    rest = iter(items)

    def one() -> list[R]:
        """The next result, or nothing at the end."""
        for item in rest:
            return [work(item)]
        return []

    with ThreadPoolExecutor(1) as thread:

        def results() -> Iterator[R]:
            coming = thread.submit(copy_context().run, one)
            while found := coming.result():
                coming = thread.submit(copy_context().run, one)
                yield found.pop()

        yield results()
