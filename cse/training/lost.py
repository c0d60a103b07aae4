"""Processes that lose each other: a message that names the process, its step, and those that gave no answer."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch.distributed as dist

from cse import distributed
from cse.errors import UserError
from cse.training.run import Run

ANSWER_SECONDS = 3.0  # in which a process that is alive sees that another one is gone, and says so
MARGIN = 0.9  # of the time that torch waits, after which a process says that it waits
FIX = "read the messages of the other processes, and continue with cse train --resume RUN"


@contextmanager
def explained(run: Run) -> Iterator[None]:
    """Turn an exchange between processes that breaks off or takes too long into a message for the user."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    try:
        with watched(run, MARGIN * run.settings.timeout) if several else nullcontext():
            yield
    except (dist.DistError, RuntimeError) as error:
        if distributed.world_size() == 1 or not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun sends it now, which would cut off the message
        reason = "it waited too long" if "imed out" in str(error) else "a connection broke"
        raise UserError(
            f"{distributed.me()} lost the others at step {run.progress.step}: {reason} (trainer.timeout is "
            f"{run.settings.timeout:g} s); silent since then: {_silent()}\nfix: {FIX}"
        ) from error


@contextmanager
def watched(run: Run, seconds: float, backend: str = "nccl") -> Iterator[None]:
    """Within, say once that no step was taken for some seconds: torch ends a wait for NCCL and the process with it."""
    over = threading.Event()

    def watch() -> None:
        step, since = run.progress.step, time.monotonic()
        while not over.wait(min(1.0, seconds / 4)):
            if step != run.progress.step:
                step, since = run.progress.step, time.monotonic()
            elif time.monotonic() - since > seconds and dist.is_initialized() and dist.get_backend() == backend:
                waited = f"{distributed.me()} took no step for {seconds:.0f} s at step {step}"
                sys.stderr.write(
                    f"cse: {waited}; after {run.settings.timeout:g} s (trainer.timeout) it ends\nfix: {FIX}\n"
                )
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _silent() -> str:
    """The processes that do not say that they lost others, since they died or hang."""
    missing = list(range(distributed.world_size()))
    until = time.monotonic() + ANSWER_SECONDS
    try:
        store = dist.distributed_c10d._get_default_store()
        store.set(f"cse/lost/{distributed.rank()}", "")
        while missing and time.monotonic() < until:
            missing = [number for number in missing if not store.check([f"cse/lost/{number}"])]
            time.sleep(0.1)
    except (dist.DistError, RuntimeError):  # process 0 or its launcher keeps the store, or the launcher of another node
        missing = [number for number in range(distributed.world_size()) if number != distributed.rank()]
        if len(missing) > 1:
            return "unknown, for the node that holds the rendezvous is lost" if distributed.rank() == 0 else "process 0"
    return ", ".join(f"process {number}" for number in missing) or "none of them"
