"""Fully sharded training, `trainer.parallel: fsdp`: each process keeps a share of every weight (torch's FSDP2).

A layer of the backbone is put together when it runs, everything else for the time of a step. The numbers are those of
DDP but for rounding. Scoring and saving need all weights of the encoder at once: `Gathered` holds them for that time.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils import convert_outputs_to_fp32
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from cse.encoder.fast.switch import in_one_pass
from cse.encoder.layers import find_layers
from cse.encoder.model import Encoder
from cse.errors import UserError
from cse.recipe.settings import Settings
from cse.training.learner import Learner


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

    Raises:
        UserError: A weight is a single number.
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

    Args:
        encoder: The encoder, before its weights are shared out.
        head: The head that is saved with the encoder's backbone, if there is one.
        device: The device that the encoder is scored on.
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
