"""Staging: a checkpoint is written as a complete folder that can be published."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cse.errors import UserError

if TYPE_CHECKING:
    from cse.encoder.model import Encoder


def stage(checkpoint: Path, folder: Path, *, dimensions: int | None = None) -> None:
    """Write the checkpoint as it is published, replacing `folder`: with its backbone, and without training state.

    Every pooler, Dense, whitening, merged LoRA and template (kept in the tokenizer) loads with the modules of
    sentence-transformers. Soft prompts need code, so the file of their module is written too.

    Args:
        checkpoint: A run's best/ or last/, or any folder that `Encoder.load` reads.
        folder: The folder to write.
        dimensions: The number of leading dimensions to keep; see `truncate`. None: all.

    Raises:
        UserError: `checkpoint` is not a checkpoint, its weights differ from those that were saved, or `dimensions` is
            out of range.
    """
    from cse.encoder.layout import require_checkpoint
    from cse.encoder.model import Encoder
    from cse.encoder.provenance import check_sums

    require_checkpoint(checkpoint)
    check_sums(checkpoint)
    encoder = Encoder.load(str(checkpoint))
    if dimensions is not None:
        truncate(encoder, dimensions)
    encoder.save(folder, whole=True, with_code=True)


def truncate(encoder: Encoder, dimensions: int) -> Encoder:
    """Cut the vectors of an encoder to their first dimensions, as `truncate_dim` does, for every loader.

    If the encoder ends in a Dense, the other rows of its weight are removed; otherwise, a Dense that keeps the first
    dimensions is appended. If vectors had unit length, the shorter vectors are scaled to unit length too.

    Raises:
        UserError: `dimensions` is not between 1 and the dimension of the encoder.
    """
    import torch

    from cse.encoder.heads import Dense, Normalize

    if not 1 <= dimensions <= encoder.dim:
        raise UserError(f"dimensions is {dimensions}, but the vectors have {encoder.dim}\nfix: give 1 to {encoder.dim}")
    modules = list(encoder.post)
    ending = [modules.pop()] if modules and isinstance(modules[-1], Normalize) else []
    if modules and isinstance(last := modules[-1], Dense):
        old = last.linear
        cut = Dense(old.in_features, dimensions, bias=old.bias is not None, activation=last.activation_name)
        with torch.no_grad():
            cut.linear.weight.copy_(old.weight[:dimensions])
            if old.bias is not None:
                cut.linear.bias.copy_(old.bias[:dimensions])
        modules[-1] = cut
    else:
        cut = Dense(encoder.hidden_size, dimensions, bias=False, activation="identity")
        with torch.no_grad():
            cut.linear.weight.copy_(torch.eye(dimensions, encoder.hidden_size))
        modules.append(cut)
    encoder.post = torch.nn.Sequential(*modules, *ending).to(encoder.device).train(encoder.training)
    return encoder
