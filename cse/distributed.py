"""Communication between processes, which `cse/training/launch.py` starts. On one process, nothing is sent."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx

from cse.errors import UserError

LAG_SECONDS = 60.0  # that a file system may take to show one node what another one wrote
T = TypeVar("T")
R = TypeVar("R")


def world_size() -> int:
    """W, the number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


@contextmanager
def together() -> Iterator[None]:
    """In this block, the processes that `torchrun` or `accelerate launch` started are one group.

    Training needs no such block: it starts its group itself.
    """
    if dist.is_initialized() or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    own_gpu()
    with meeting():
        dist.init_process_group("gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def own_gpu() -> None:
    """Let this process use a GPU of its own among those of the machine, by the number that its launcher gave it."""
    if torch.cuda.is_available():
        number = os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or "0"
        torch.cuda.set_device(int(number) % torch.cuda.device_count())


def local_rows(size: int) -> slice:
    """The places of this process's `size` rows after `gather`."""
    return slice(rank() * size, (rank() + 1) * size)


def _named(name: str, before: str) -> Any:
    """Find a function of torch.distributed by its name, or by that before it, of which newer releases warn."""
    return getattr(dist, name, None) or getattr(dist, before)


class _Gather(torch.autograd.Function):
    """Concatenate over processes; backward sums the gradients of all processes' losses for the local rows.

    A gather that keeps the local gradient only gives 1/W of the true gradient once DDP has averaged. Summing first,
    then averaging, is exact, whether each process computes the whole loss or its own rows of it.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, tensor: Tensor) -> Tensor:
        every = tensor.new_empty((world_size() * len(tensor), *tensor.shape[1:]))
        _named("all_gather_single", "all_gather_into_tensor")(every, tensor.contiguous())
        ctx.rows = local_rows(len(tensor))  # type: ignore[attr-defined]
        return every

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].contiguous()
        if dist.get_backend() == "nccl":  # which sums the local rows alone, in 1 / W of the traffic
            own = torch.empty_like(total[ctx.rows])
            _named("reduce_scatter_single", "reduce_scatter_tensor")(own, total)
            return own
        total = total.clone()
        dist.all_reduce(total)
        return total[ctx.rows]


class _Sum(torch.autograd.Function):
    """Sum over processes; backward likewise, for the same reason as in `_Gather`."""

    @staticmethod
    def forward(ctx: FunctionCtx, tensor: Tensor) -> Tensor:
        total = tensor.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        return total


def gather(tensor: Tensor) -> Tensor:
    """(n, ...) of every process, in rank order: (W n, ...). Differentiable; n must be the same everywhere."""
    if world_size() == 1:
        return tensor
    return _Gather.apply(tensor)  # type: ignore[no-untyped-call, unused-ignore]


def all_sum(tensor: Tensor) -> Tensor:
    """Sum over processes, differentiable."""
    if world_size() == 1:
        return tensor
    return _Sum.apply(tensor)  # type: ignore[no-untyped-call, unused-ignore]


def is_first() -> bool:
    """Tell whether this process is the one that writes, also before the processes are one group."""
    return os.environ.get("RANK", "0") == "0"


def me() -> str:
    """This process in words."""
    number, count = os.environ.get("RANK", str(rank())), os.environ.get("WORLD_SIZE", str(world_size()))
    return f"process {number} of {count} on {socket.gethostname()}"


@contextmanager
def meeting() -> Iterator[None]:
    """Turn a group of processes that does not come together into a message for the user."""
    try:
        yield
    except (dist.DistError, RuntimeError) as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        if "EADDRINUSE" in str(error):
            raise UserError(
                f"{me()} cannot open {where}, where the processes meet: another program uses the port\n"
                "fix: give another port: torchrun --master-port, or MASTER_PORT; --processes finds a free one itself"
            ) from error
        if isinstance(error, dist.DistError):
            raise UserError(
                f"{me()} did not meet the others at {where}: {reason}\n"
                "fix: start all of them, and see that every node reaches that address and port"
            ) from error
        raise


def comes(there: Callable[[], bool]) -> bool:
    """Tell whether something is there, or comes: what another process wrote may be seen late on a shared file system.

    The first process does not wait, since it is the one that writes.
    """
    until = time.monotonic() + (0.0 if is_first() else LAG_SECONDS)
    while not (found := there()) and time.monotonic() < until:
        time.sleep(0.2)
    return found


def all_max(value: int) -> int:
    """The largest value over processes."""
    if world_size() == 1:
        return value
    largest = torch.tensor(value)
    if dist.get_backend() == "nccl":
        largest = largest.cuda()
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)


def broadcast(value: object) -> Any:
    """The main process's value, on every process."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather_objects(value: object) -> list[Any]:
    """The values of all processes, in rank order, on every process."""
    if world_size() == 1:
        return [value]
    boxes: list[Any] = [None] * world_size()
    dist.all_gather_object(boxes, value)
    return boxes


def gather_results(make: Callable[[], R]) -> list[R]:
    """Collect what `make` returns on each process, in rank order; a UserError of one is raised on all."""
    if world_size() == 1:
        return [make()]
    made: R | UserError
    try:
        made = make()
    except UserError as error:
        made = error
    every = gather_objects(made)
    for one in every:
        if isinstance(one, UserError):
            raise one
    return every


def in_turn(parts: Iterable[T], work: Callable[[T], R]) -> Iterator[R]:
    """Give what `work` makes of each part, in order, on every process; each works on one of every W parts."""
    place, rest = rank(), iter(parts)

    def own(turn: list[T]) -> list[R]:
        return [work(part) for part in turn[place : place + 1]]

    while turn := list(islice(rest, world_size())):
        yield from chain.from_iterable(gather_results(partial(own, turn)))


def any_process(flag: bool) -> bool:
    """Tell whether the flag is set on any process."""
    return bool(all_max(int(flag)))
