"""Unit vectors of many texts, encoded once and kept in the cache as a memory-mapped array, for miners and teachers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cse.console import progress
from cse.encoder.vectors import resumable, unit
from cse.files import cache_dir, writing_cache

if TYPE_CHECKING:
    from cse.encoder.model import Encoder
    from cse.encoder.precision import Precision

CHUNK = 8_192  # texts that are encoded before the rows are saved


def cached_vectors(
    encoder: Encoder, model_hash: str, texts: Sequence[str], precision: Precision, prompt: str = ""
) -> NDArray[np.float32]:
    """The unit vectors (n, D) of texts, from the cache if they were encoded before.

    The array is on disk, so memory does not grow with the texts. A job that was killed resumes where it stopped and
    gives the same vectors.

    Args:
        encoder: The encoder.
        model_hash: The hash of the encoder; see `cse.encoder.identity.model_hash`.
        texts: The n texts.
        precision: See `Encoder.encode`.
        prompt: The text that is put before every text; empty for none.

    Raises:
        UserError: The cache cannot be written.
    """
    from filelock import FileLock

    digest = hashlib.sha256(f"2 {model_hash} {precision} {CHUNK}".encode())
    for text in [f"prompt {prompt}", *texts] if prompt else texts:
        digest.update(text.encode() + b"\x1e")
    file = cache_dir() / "vectors" / f"{digest.hexdigest()[:32]}.npy"
    with writing_cache("vectors"):
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock"):
            _fill(file, encoder, texts, precision, prompt)
    vectors: NDArray[np.float32] = np.load(file, mmap_mode="r")
    return vectors


def _fill(file: Path, encoder: Encoder, texts: Sequence[str], precision: Precision, prompt: str) -> None:
    if file.exists():
        return
    with resumable(file, (len(texts), encoder.dim), {}) as rows:
        with progress("vectors", len(texts), lines=len(texts) > CHUNK) as advance:
            for start in range(rows.done, len(texts), CHUNK):
                part = texts[start : start + CHUNK]
                rows.append(unit(encoder.encode(part, precision=precision, prompt=prompt)))
                advance(rows.done)
        rows.finish()
