"""The weights and the optimizers' state of a sharded run on disk: every process writes and reads its shares.

torch.distributed.checkpoint keeps with each share its place in the whole tensor, so that any number of processes can
read what another number wrote.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cse import distributed
from cse.errors import UserError
from cse.files import sha256_file
from cse.training.learner import Learner

FOLDER, METADATA = "shards", ".metadata"


def save(state: Path, learner: Learner, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, str]:
    """Write the shares of all processes, which call this together; returns the sha256 of every file by its name.

    Args:
        state: The folder of the state, which the processes share.
        learner: The weights.
        optimizers: The optimizers.

    Raises:
        UserError: A process cannot write; all processes raise it.
    """
    from torch.distributed.checkpoint.filesystem import FileSystemWriter  # half a second, which few runs need
    from torch.distributed.checkpoint.state_dict_saver import save as write

    folder = state / FOLDER
    tensors = _weights(learner)
    for i, optimizer in enumerate(optimizers):
        for name, parameter in _optimized(learner, optimizer):
            tensors |= {f"optimizer.{i}.{name}/{key}": value for key, value in optimizer.state[parameter].items()}
    with _explained("written", folder):
        write(tensors, storage_writer=FileSystemWriter(folder), no_dist=distributed.world_size() == 1)
    written = [*folder.glob(f"__{distributed.rank()}_*"), *([folder / METADATA] if distributed.rank() == 0 else [])]
    sums = distributed.gather_objects({path.name: sha256_file(path) for path in written})
    return {name: digest for one in sums for name, digest in one.items()}


def load(state: Path, learner: Learner, optimizers: Sequence[torch.optim.Optimizer], sums: Mapping[str, str]) -> None:
    """Read this process's shares into the weights and the optimizers; all processes call this together.

    Args:
        state: The folder of the state.
        learner: The weights.
        optimizers: The optimizers, which have taken no step.
        sums: What `save` returned.

    Raises:
        UserError: A file is damaged, or the state belongs to other weights; all processes raise it.
    """
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.state_dict_loader import load as read

    folder = state / FOLDER
    names = sorted(sums)[distributed.rank() :: distributed.world_size()]
    distributed.gather_results(lambda: _check(folder, {name: sums[name] for name in names}))
    reader = FileSystemReader(folder)
    saved: Mapping[str, Any] = reader.read_metadata().state_dict_metadata
    tensors = _weights(learner)
    for i, optimizer in enumerate(optimizers):
        for name, parameter in _optimized(learner, optimizer):
            start = f"optimizer.{i}.{name}/"
            for key in (key for key in saved if key.startswith(start)):
                size, dtype = saved[key].size, saved[key].properties.dtype
                if size == parameter.shape:
                    value = torch.zeros_like(parameter.detach())  # a share, as the weight is
                else:  # a number of steps
                    value = torch.zeros(size, dtype=dtype, device=parameter.device)
                optimizer.state[parameter][key.removeprefix(start)] = tensors[key] = value
    if strange := sorted(set(tensors) ^ set(saved)):
        raise UserError(
            f"--resume {state.parent}: the saved weights do not fit the recipe: {', '.join(strange)[:200]}\n"
            "fix: resume with the recipe.yaml that the run was started with"
        )
    with _explained("read", folder):
        read(tensors, storage_reader=reader, no_dist=distributed.world_size() == 1)


def _weights(learner: Learner) -> dict[str, Tensor]:
    return {f"learner.{name}": value for name, value in learner.trained_state().items()}


def _optimized(learner: Learner, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    """The weights of an optimizer by their names in the learner."""
    names = {parameter: name for name, parameter in learner.named_parameters()}
    return ((names[parameter], parameter) for group in optimizer.param_groups for parameter in group["params"])


def _check(folder: Path, sums: Mapping[str, str]) -> None:
    """Raise unless the files have these sums, also if another process wrote them and they are seen here late."""
    for name, digest in sums.items():
        if not distributed.comes(partial(is_whole, folder / name, digest)):
            raise UserError(
                f"--resume {folder.parents[1]}: {folder / name} is missing or damaged, on {distributed.me()}\n"
                "fix: start the run again, or publish its best/ as it is"
            )


def is_whole(path: Path, digest: str) -> bool:
    """Tell whether a file exists and has this sha256."""
    return path.is_file() and sha256_file(path) == digest


@contextmanager
def _explained(verb: str, folder: Path) -> Iterator[None]:
    """Turn the failure of some processes into one error that names them."""
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        with warnings.catch_warnings():  # a single process saves and loads without a group, as it should
            warnings.filterwarnings("ignore", message=".*assuming the intent is to (save|load) in a single process")
            yield
    except CheckpointException as error:
        number, (reason, _) = min(error.failures.items())
        raise UserError(
            f"{folder} cannot be {verb} by process {number} of {distributed.world_size()}: {reason}\n"
            "fix: make room or repair the disk there, and resume the run; what was saved before is unchanged"
        ) from error
