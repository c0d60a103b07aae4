"""Processes that stay, for tests of what several processes do together. Starting them is the expensive part."""

import os
import queue
import tempfile
import time
import traceback
from pathlib import Path

import torch
import torch.distributed as dist

from tests.forks import HEAVY


class Group:
    """Gloo processes that run functions of (rank, *arguments) and give back all results.

    Args:
        size: Number of processes.
    """

    def __init__(self, size: int = 2) -> None:
        self.size = size
        context = torch.multiprocessing.get_context("forkserver")  # one process imports, and the others are its forks
        context.set_forkserver_preload([*HEAVY, "cse.cli", "cse.training.start"])
        self.folder = tempfile.TemporaryDirectory()
        self.inbox = [context.Queue() for _ in range(size)]
        self.outbox = context.Queue()
        self.processes = [
            context.Process(target=_serve, args=(rank, size, self.folder.name, inbox, self.outbox), daemon=True)
            for rank, inbox in enumerate(self.inbox)
        ]
        for process in self.processes:
            process.start()

    def __call__(self, function, *arguments, timeout=300):
        """[result of rank 0, result of rank 1, ...] of a function at a module's top level."""
        for inbox in self.inbox:
            inbox.put((function, arguments))
        results, until = {}, time.monotonic() + timeout
        while len(results) < self.size:
            try:
                rank, failed, value = self.outbox.get(timeout=1)
            except queue.Empty:
                dead = [p.exitcode for p in self.processes if not p.is_alive()]
                if dead or time.monotonic() > until:
                    self.close()
                    raise AssertionError(
                        f"{function.__name__}: {f'exit {dead}' if dead else f'no end after {timeout} s'}"
                    ) from None
                continue
            if failed:
                self.close()
                raise AssertionError(f"{function.__name__} on process {rank}:\n{value}")
            results[rank] = value
        return [results[rank] for rank in range(self.size)]

    @property
    def alive(self) -> bool:
        """Whether all wait for work."""
        return all(p.is_alive() for p in self.processes)

    def close(self) -> None:
        """End all."""
        for process in self.processes:
            process.kill()
            process.join(10)
        self.folder.cleanup()


def _serve(rank, size, folder, inbox, outbox) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    os.environ |= {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "HF_HUB_OFFLINE": "1"}
    from accelerate.state import AcceleratorState

    from cse.training import launch

    launch.FIRST_SPEAKS_SECONDS = 0.0
    for job in range(1_000_000):
        function, arguments = inbox.get()
        if not dist.is_initialized():  # a run ends the group that it found
            dist.init_process_group("gloo", init_method=f"file://{Path(folder, str(job))}", rank=rank, world_size=size)
        AcceleratorState._reset_state(reset_partial_state=True)
        try:
            outbox.put((rank, False, function(rank, *arguments)))
        except BaseException:
            outbox.put((rank, True, traceback.format_exc()))
