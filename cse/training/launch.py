"""Several processes of one command on this machine, `--processes N`: torchrun, in the same command."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import pairwise
from threading import Thread
from typing import Any

from cse.console import stop_signals
from cse.errors import UserError

STARTED = "CSE_STARTED"  # in the environment of the processes: the time that they all name their folder by
SHUTDOWN_SECONDS = 600  # that processes have to finish their step and save, once a signal asked them to stop
FIRST_SPEAKS_SECONDS = 10.0
PARENT_SECONDS = 1.0  # between two looks whether the parent is there
SAVE_SECONDS = 60.0  # that a process without a parent has to save
PARENT = "CSE_PARENT"  # in the environment of the processes: the process that started them
DEVICE = ("--device", "--trainer.device")


def add_argument(parser: argparse.ArgumentParser) -> None:
    """Declare `--processes`."""
    parser.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="start N processes on this machine, one for each GPU; torchrun and accelerate launch work as well",
    )


def is_wanted(arguments: argparse.Namespace) -> bool:
    """Tell whether this process must start others instead of working itself; `cse train --then` does it by stage."""
    wanted = getattr(arguments, "processes", None) is not None and getattr(arguments, "then", None) is None
    return wanted and "LOCAL_RANK" not in os.environ


def run(processes: int, words: Sequence[str], check: Callable[[], None] = lambda: None) -> int:
    """Run `cse` with these words in several processes; returns the exit code of the first one that failed, or 0.

    A signal that asks for a stop is passed to each of them, and they save what they have. So do they if this process
    is killed. `check` raises what any of them would, before they start.

    Raises:
        UserError: The number is not positive, or above that of the GPUs or cores; or a process died and ended all.
    """
    if processes < 1:
        raise UserError(f"--processes is {processes}\nfix: give a number >= 1")
    import torch.distributed.run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    gpus, cores = 0 if _on_cpu(words) else torch.cuda.device_count(), os.cpu_count() or 1
    if not gpus and processes > cores:
        raise UserError(
            f"--processes is {processes}, and this machine has {cores} cores, each of which serves one process\n"
            f"fix: give --processes={cores} or less"
        )
    if 0 < gpus < processes:
        option = "--trainer.device" if words[:1] == ["train"] else "--device"
        raise UserError(
            f"--processes is {processes}, and this machine has {gpus} GPUs, each of which serves one process\n"
            f"fix: give --processes={gpus} or less, or {option}=cpu"
        )
    check()
    logging.getLogger("torch").setLevel(logging.CRITICAL)  # its reports of a failure repeat ours, at length
    os.environ |= {
        "PET_SIGNALS_TO_HANDLE": ",".join(stop_signals()),
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(SHUTDOWN_SECONDS),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes))),
        STARTED: common_start(),
        PARENT: str(os.getpid()),
    }
    torchrun: Any = torch.distributed.run  # it is without types
    meet = ["--standalone"]
    if os.name == "nt":  # where builds of torch lack libuv, which the server of --standalone needs: they meet in a file
        meet = ["--rdzv-backend=c10d", "--rdzv-conf=store_type=file"]
        os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    try:
        torchrun.run(torchrun.parse_args([*meet, f"--nproc-per-node={processes}", "-m", "cse", *words]))
    except SignalException as stopped:
        return 128 + int(stopped.sigval)
    except ChildFailedError as failed:
        # One that a signal ended is the cause; those that lost it end with an error, maybe before it is noticed. Only
        # SIGTERM comes from torchrun, which ends the others by it when one has failed and said why.
        rank, failure = min(failed.failures.items(), key=lambda one: (_place(one[1].exitcode), one[1].timestamp))
        if failure.exitcode >= 0:
            return failure.exitcode
        name = signal.Signals(-failure.exitcode).name
        why = "it waited too long for another one" if name == "SIGABRT" else "memory may have run out"
        raise UserError(
            f"process {rank} of {processes} was ended by {name}, and the others with it; {why}\n"
            "fix: run the same command again, or continue a training run with cse train --resume RUN"
        ) from None
    return 0


def end_with_parent() -> None:
    """Watch the process that started this one, if `run` did: when it is gone, stop as at SIGTERM, or by force."""
    if os.environ.get(PARENT) == str(parent := os.getppid()):
        Thread(target=_wait_for, args=(parent,), daemon=True).start()


def _wait_for(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)  # a run saves what it has
    time.sleep(SAVE_SECONDS)
    os._exit(128 + signal.SIGTERM)  # it waits for a process that has ended


def common_start() -> str:
    """The time at which the command was started, the same in all of its processes, to name a folder by."""
    if STARTED not in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        what = "--run-dir is not given, and processes that were started together need one folder"
        raise UserError(f"{what}\nfix: give --run-dir, or start them with --processes")
    return os.environ.get(STARTED) or f"{datetime.now():%Y%m%d-%H%M%S}"


def let_the_first_speak(said: str) -> str:
    """Wait before an error is printed, in all processes but the first; returns the error, with the process's name.

    All find the same bad input, and the first says so and ends the others. One that fails alone speaks after the wait.
    """
    if os.environ.get("RANK", "0") == "0":
        return said
    from cse import distributed  # imports torch

    sys.stdout.flush()
    time.sleep(FIRST_SPEAKS_SECONDS)
    return said if said.startswith("process ") else f"{distributed.me()}: {said}"


def _place(exitcode: int) -> int:
    """The place of a failure among the causes of the others: another signal, an error, SIGTERM."""
    return 2 if exitcode == -signal.SIGTERM else int(exitcode >= 0)


def _on_cpu(words: Sequence[str]) -> bool:
    """Tell whether an option of the command asks for the CPU, as `--device=cpu` or `--device cpu`."""
    return any(
        word in {f"{option}=cpu" for option in DEVICE} or (word in DEVICE and value == "cpu")
        for word, value in pairwise([*words, ""])
    )
