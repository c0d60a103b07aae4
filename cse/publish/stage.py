"""From a checkpoint of a run to a folder that anyone loads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cse.errors import UserError

if TYPE_CHECKING:
    from cse.encoder.model import Encoder


def stage(checkpoint: Path, folder: Path, *, dimensions: int | None = None) -> None:
    """Write the checkpoint as it is published: backbone included, nothing of training, replacing `folder` as a whole.

    What sentence-transformers has modules for (every pooler, Dense, whitening, fewer dimensions, LoRA merged, a
    template in the tokenizer) needs no code. Soft prompts travel with the file of their module.

    Args:
        checkpoint: A run's best/ or last/, or any folder that `Encoder.load` reads.
        folder: Where to.
        dimensions: Keep the first so many; see `truncate`.

    Raises:
        UserError: It is no checkpoint, its weights are not those that were saved, or `dimensions` is out of range.
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
    """The encoder cut to the first dimensions of its vectors, as a Dense: what `truncate_dim` does, for every loader.

    A last Dense loses its other rows; without one, a Dense that keeps the first dimensions is appended. Where vectors
    had unit length, those cut have it again.

    Raises:
        UserError: `dimensions` is not between 1 and those there are.
    """
    import torch

    from cse.encoder.heads import Dense, Normalize

    if not 1 <= dimensions <= encoder.dim:
        raise UserError(f"dimensions is {dimensions}; the vectors have {encoder.dim}: give 1 to {encoder.dim}")
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
