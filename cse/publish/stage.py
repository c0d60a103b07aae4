"""Staging: a checkpoint is written as a complete folder that can be published."""

from __future__ import annotations

from pathlib import Path


def stage(checkpoint: Path, folder: Path) -> None:
    """Write the checkpoint as it is published, replacing `folder`: with its backbone, and without training state.

    Every pooler, Dense, whitening, merged LoRA and template (kept in the tokenizer) loads with the modules of
    sentence-transformers. Soft prompts need code, so the file of their module is written too.

    Args:
        checkpoint: A run's best/ or last/, or any folder that `Encoder.load` reads.
        folder: The folder to write.

    Raises:
        UserError: `checkpoint` is not a checkpoint, or its weights differ from those that were saved.
    """
    from cse.encoder.layout import require_checkpoint
    from cse.encoder.model import Encoder
    from cse.encoder.provenance import check_sums

    require_checkpoint(checkpoint)
    check_sums(checkpoint)
    Encoder.load(str(checkpoint)).save(folder, whole=True, with_code=True)
