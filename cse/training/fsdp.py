"""Fully sharded training, `trainer.parallel: fsdp`: each process keeps a share of every weight (torch's FSDP2).

A layer of the backbone is put together when it runs, everything else for the time of a step. The numbers are those of
DDP but for rounding. Scoring and saving need all weights of the encoder at once: `Gathered` holds them for that time.

On disk, every process writes and reads its shares. torch.distributed.checkpoint keeps with each share its place in the
whole tensor, so that any number of processes can read what another number wrote.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils import convert_outputs_to_fp32
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from cse import distributed
from cse.encoder.fast.switch import in_one_pass
from cse.encoder.layers import find_layers
from cse.encoder.model import Encoder
from cse.errors import UserError
from cse.files import sha256_file
from cse.recipe.settings import Settings
from cse.training.learner import Learner

FOLDER, METADATA = "shards", ".metadata"


def problems(settings: Settings, encoder: Encoder) -> Iterator[str]:
    """List what cannot be trained in shards, each as a problem with its fix."""
    if settings.parallel != "fsdp":
        return
    what, ddp = "trainer.parallel is fsdp", "or trainer.parallel=ddp"
    if find_layers(encoder.backbone) is None:
        yield f"{what}, and {encoder.source} has no list of layers\nfix: use trainer.parallel=ddp"
    if encoder.weights in {"int8", "int4"}:
        yield f"{what}, and encoder.weights is {encoder.weights}, which cannot be shared out\nfix: use bf16, {ddp}"
    if settings.optimizer in {"adamw8bit", "adafactor"}:
        yield f"{what}, and trainer.optimizer is {settings.optimizer}, which needs whole weights\nfix: use adamw, {ddp}"
    if settings.chunk_tokens is not None:
        yield f"{what}, and trainer.chunk_tokens would cut unequal numbers of chunks\nfix: use chunk_size, {ddp}"
    if settings.initial_weights == "mean":
        yield f"{what}, and trainer.initial_weights is mean\nfix: use auto, {ddp}"


def plugin(encoder: Encoder) -> FullyShardedDataParallelPlugin:
    """Tell Accelerate to shard each layer of a backbone, and everything else together."""
    found = find_layers(encoder.backbone)
    return FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=sorted({type(layer).__name__ for layer in found[1]}) if found else [],
        reshard_after_forward=True,
        cpu_offload=False,
        activation_checkpointing=False,  # trainer.gradient_checkpointing does it
        cpu_ram_efficient_loading=False,
        state_dict_type="SHARDED_STATE_DICT",
        # Weights stay float32, and products are rounded by autocast, as under DDP; see `prepare`.
        mixed_precision_policy=torch.distributed.fsdp.MixedPrecisionPolicy(),
    )


def prepare(
    accelerator: Accelerator, settings: FullyShardedDataParallelPlugin, learner: Learner, made: Sequence[Any]
) -> tuple[Any, ...]:
    """Share out the learner's weights and give the optimizers the shares; `accelerator.prepare` for this purpose.

    Every process must run every layer as often as the others, which wait for it there. So all rows are encoded in one
    pass, and not in sub-batches by length, which each process would cut in its own way.
    """
    state: Any = accelerator.state
    state.distributed_type, state.fsdp_plugin = DistributedType.FSDP, settings  # Accelerate does so on GPUs only
    forward = learner.forward

    def one_pass(*arguments: Any) -> Any:
        with in_one_pass(), accelerator.autocast():
            return forward(*arguments)

    rounds = accelerator.mixed_precision != "no"
    warnings.filterwarnings("ignore", message=".*returned a view tensor.*")  # vectors are not changed in place
    module: Any = learner
    module.forward = convert_outputs_to_fp32(one_pass) if rounds else one_pass
    try:
        prepared: tuple[Any, ...] = accelerator.prepare(learner, *made)
    except ValueError as error:
        name = next((name for name, p in learner.named_parameters() if p.dim() == 0), None)
        if name is None:
            raise
        where = type(learner.get_submodule(name.rpartition(".")[0])).__name__
        raise UserError(
            f"trainer.parallel is fsdp, and {name} of {where} is a single number, which cannot be shared out\n"
            "fix: use trainer.parallel=ddp"
        ) from error
    return prepared


class Gathered:
    """An encoder and a head like those that are trained, which have their weights while they are needed as a whole.

    It is made before weights are shared out; the head, if any, is saved with the backbone, and `device` scores.
    """

    def __init__(self, encoder: Encoder, head: nn.Module | None, device: torch.device) -> None:
        trained = [encoder] if head is None else [encoder, head]
        empty = {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for m in trained for p in m.parameters()}
        kept = {id(part): part for part in (encoder.tokenizer,)}
        self.encoder, self.head = deepcopy(encoder, empty | kept), deepcopy(head, empty)
        for buffer in self.encoder.buffers():
            buffer.data = buffer.data.to(device)
        own = [self.encoder] if self.head is None else [self.encoder, self.head]
        self._modules = [(ours, theirs, ours.state_dict()) for ours, theirs in zip(own, trained, strict=True)]

    @contextmanager
    def weights(self) -> Iterator[None]:
        """Within, `encoder` and `head` have all weights of what is trained. Every process must enter together."""
        for ours, theirs, _ in self._modules:
            state = {name: whole(tensor) for name, tensor in theirs.state_dict().items()}
            ours.load_state_dict(state, assign=True)
        try:
            yield
        finally:
            for ours, _, empty in self._modules:
                ours.load_state_dict(empty, assign=True)


def whole(tensor: Tensor) -> Tensor:
    """A tensor of which this process has a share, put together; any other as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def save(state: Path, learner: Learner, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, str]:
    """Write the shares of all processes, which call this together; returns the sha256 of every file by its name."""
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
    """Read this process's shares into weights and optimizers that took no step; all processes call this together.

    `sums` is what `save` returned.
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
        raise UserError(misfit(state, strange))
    with _explained("read", folder):
        read(tensors, storage_reader=reader, no_dist=distributed.world_size() == 1)


def misfit(state: Path, names: Sequence[str]) -> str:
    """Say that the weights in a run's state are others than those that its recipe trains."""
    return (
        f"--resume {state.parent}: the saved weights do not fit the recipe: {', '.join(names)[:200]}\n"
        "fix: resume with the recipe.yaml that the run was started with"
    )


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
