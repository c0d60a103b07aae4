"""Staging: a checkpoint is written as a complete folder that can be published."""

from __future__ import annotations

import shutil
from pathlib import Path


def stage(checkpoint: Path, folder: Path, dimensions: int | None = None) -> None:
    """Write the checkpoint as it is published, replacing `folder`: with its backbone, and without training state.

    Every pooler, Dense, whitening, merged LoRA and template (kept in the tokenizer) loads with the modules of
    sentence-transformers. Soft prompts need code, so the file of their module is written too. The ranges of the
    dimensions, which quantized vectors need, are copied if they are those of the published vectors.

    Args:
        checkpoint: A run's best/ or last/, or any folder that `Encoder.load` reads.
        folder: The folder to write.
        dimensions: Number of first dimensions to keep; see `Encoder.truncate`. None: all.

    Raises:
        UserError: `checkpoint` is not a checkpoint, its weights differ from those that were saved, or its vectors do
            not have as many dimensions.
    """
    from cse.encoder import widths
    from cse.encoder.checkpoint.layout import require_checkpoint
    from cse.encoder.checkpoint.sums import check_sums
    from cse.encoder.model import Encoder
    from cse.inference.quantize import FILE, Calibration

    require_checkpoint(checkpoint)
    check_sums(checkpoint)
    encoder = Encoder.load(str(checkpoint))
    if dimensions is not None:
        widths.check([dimensions], encoder.dim, option="--dimensions")
        encoder.truncate(dimensions)
    encoder.save(folder, whole=True, with_code=True)
    if (checkpoint / FILE).is_file() and len(Calibration.read(checkpoint / FILE).low) == encoder.dim:
        shutil.copyfile(checkpoint / FILE, folder / FILE)
