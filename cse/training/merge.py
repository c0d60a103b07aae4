"""The average of two checkpoints of one run, tensor by tensor and file by file (WiSE-FT, arXiv:2109.01903)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from cse.encoder.heads import Dense
from cse.encoder.kinds import detect
from cse.encoder.model import Encoder
from cse.encoder.provenance import ADAPTER, write_sums
from cse.encoder.soft_prompts import SoftPrompts
from cse.files import atomic_dir, read_json, write_json


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
        settings = folder / ADAPTER / "adapter_config.json"
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
    if isinstance(encoder.adapter, SoftPrompts):
        yield (
            "trainer.merge_initial is set, but the soft prompts of encoder.adapter start at random, so there are no "
            "initial ones to average with\nfix: remove trainer.merge_initial, or train with cse.encoder.Lora"
        )
    known = [module for module in detect(encoder.source, encoder.revision).layout.post if module.dense is not None]
    if len([module for module in encoder.post if isinstance(module, Dense)]) > len(known):
        yield (
            "trainer.merge_initial is set, but the exported head of the encoder starts at random, so there is no "
            "initial one to average with\nfix: remove trainer.merge_initial, or set encoder.export_head to false"
        )
