"""Averages of initial and trained weights: of two checkpoints of a run (WiSE-FT, arXiv:2109.01903), and during it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from cse.encoder.adapters.lora import Lora, scaled
from cse.encoder.adapters.soft_prompts import SoftPrompts
from cse.encoder.checkpoint.layout import ADAPTER, ADAPTER_CONFIG
from cse.encoder.checkpoint.sums import write_sums
from cse.encoder.heads import Dense
from cse.encoder.kinds import detect
from cse.encoder.model import Encoder
from cse.errors import UserError
from cse.files import atomic_dir, read_json, write_json


class FinalWeights(nn.Module):
    """What a run scores and saves while it trains: theta, or (theta_0 + theta) / 2; see `trainer.initial_weights`.

    The mean is that of every exported weight that is trained. With LoRA, which starts from a difference of 0, it is
    half of the difference.

    Args:
        encoder: The encoder, before training. Its weights are copied, as a part of the run's state.
        averages: Whether it is the mean.
    """

    def __init__(self, encoder: Encoder, *, averages: bool) -> None:
        super().__init__()
        self.averages = averages
        weights = self._weights(encoder) if averages else []
        self.initial = nn.ParameterList(nn.Parameter(w.detach().clone(), requires_grad=False) for w in weights)

    def check(self, encoder: Encoder) -> None:
        """Raise unless the mean is that of the encoder's initial weights; called when a run begins.

        Raises:
            UserError: The encoder's LoRA has been trained before.
        """
        moved = (bool(weight.any()) for name, weight in encoder.named_parameters() if ".lora_B" in name)
        if self.averages and any(moved):
            raise UserError(
                "trainer.initial_weights is mean, but the LoRA of the encoder was trained before, so that "
                "half of its difference is not the mean\nfix: save the encoder, and train from that checkpoint"
            )

    @contextmanager
    def of(self, encoder: Encoder) -> Iterator[None]:
        """Within, the encoder has the weights that are scored and saved; afterwards those that are trained."""
        if not self.averages:
            yield
            return
        weights = self._weights(encoder)
        trained = [weight.detach().clone() for weight in weights]
        half = scaled(encoder.backbone, 0.5) if isinstance(encoder.adapter, Lora) else nullcontext()
        try:
            _put(weights, [average(a, b, 0.5) for a, b in zip(self.initial, trained, strict=True)])
            with half:
                yield
        finally:
            _put(weights, trained)

    def _weights(self, encoder: Encoder) -> list[nn.Parameter]:
        """The weights that are averaged one by one."""
        named = [*encoder.backbone.named_parameters(), *encoder.post.named_parameters()]
        return [weight for name, weight in named if weight.requires_grad and ".lora_" not in name]


@torch.no_grad()
def _put(weights: list[nn.Parameter], values: list[Tensor]) -> None:
    for weight, value in zip(weights, values, strict=True):
        weight.copy_(value)


def merge(initial: Path, trained: Path, out: Path, share: float) -> None:
    """Write the checkpoint whose weights are share * trained + (1 - share) * initial.

    Both were saved by one encoder, so they have the same files and tensors. One file of each is in memory at a time.
    With LoRA, this is the initial weights plus `share` of the difference, and the adapter alone gets that scale.

    Args:
        initial: The checkpoint from before training.
        trained: The checkpoint from after training; everything but weights is taken from it.
        out: The folder to write. It appears only when it is complete.
        share: The share of the trained weights, in [0, 1]; 0 gives the initial weights and 1 the trained ones, exactly.
    """
    from safetensors import safe_open
    from safetensors.torch import save_file

    with atomic_dir(out) as folder:
        shutil.copytree(trained, folder, dirs_exist_ok=True)
        for path in sorted(folder.rglob("*.safetensors")):
            name = path.relative_to(folder)
            if name.parts[0] == ADAPTER:
                continue
            with safe_open(initial / name, framework="pt") as a, safe_open(trained / name, framework="pt") as b:
                tensors = {key: average(a.get_tensor(key), b.get_tensor(key), share) for key in b.keys()}  # noqa: SIM118
                metadata = b.metadata()
            save_file(tensors, path, metadata=metadata)
        settings = folder / ADAPTER / ADAPTER_CONFIG
        if settings.is_file():
            about = read_json(settings)
            write_json(settings, about | {"lora_alpha": about["lora_alpha"] * share})
        write_sums(folder)


def average(initial: Tensor, trained: Tensor, share: float) -> Tensor:
    """The mean of two tensors, computed in float32 at least; integers are those of `trained`."""
    if not trained.is_floating_point():
        return trained
    wide = torch.promote_types(trained.dtype, torch.float32)
    return initial.to(wide).lerp(trained.to(wide), share).to(trained.dtype)


def problems(encoder: Encoder) -> Iterator[str]:
    """Why an encoder has no initial weights worth an average, each with its fix."""
    asked = "trainer.initial_weights asks for an average"
    if isinstance(encoder.adapter, SoftPrompts):
        yield (
            f"{asked}, but the soft prompts of encoder.adapter start at random, so there are no initial ones\n"
            "fix: remove trainer.initial_weights, or train with cse.encoder.Lora"
        )
    known = [module for module in detect(encoder.source, encoder.revision).layout.post if module.dense is not None]
    if len([module for module in encoder.post if isinstance(module, Dense)]) > len(known):
        yield (
            f"{asked}, but the exported head of the encoder starts at random, so there is no initial one\n"
            "fix: remove trainer.initial_weights, or set encoder.export_head to false"
        )
