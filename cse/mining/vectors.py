"""Unit vectors of many texts, encoded once and kept in the cache as a memory-mapped array."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cse.files import atomic_file, cache_dir, writing_cache

if TYPE_CHECKING:
    from cse.encoder.model import Encoder, Precision

log = logging.getLogger("cse")
CHUNK = 8_192  # texts between two marks of how far an encoding is


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows (n, D) divided by their lengths."""
    scaled: NDArray[np.float32] = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-8)
    return scaled


def encoder_hash(encoder: Encoder) -> str:
    """The sha256 of what an encoder's vectors depend on: weights, tokenizer, pooler, length."""
    import torch

    about = (encoder.pooler, encoder.max_length, encoder.lower_case, repr(encoder.post))
    digest = hashlib.sha256(repr(about).encode() + encoder.tokenizer.backend_tokenizer.to_str().encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def cached_vectors(
    encoder: Encoder, model_hash: str, texts: Sequence[str], precision: Precision
) -> NDArray[np.float32]:
    """(n, D) unit vectors of texts, from the cache as far as they were encoded before.

    The array lies on disk, so that memory does not grow with the texts. A job that was killed goes on where it was,
    and ends with the same vectors.

    Args:
        encoder: Which encodes.
        model_hash: Its `encoder_hash`.
        texts: n texts.
        precision: As of `Encoder.encode`.

    Raises:
        UserError: The cache cannot be written.
    """
    from filelock import FileLock

    digest = hashlib.sha256(f"{model_hash} {precision} {CHUNK}".encode())
    for text in texts:
        digest.update(text.encode() + b"\x1e")
    file = cache_dir() / "vectors" / f"{digest.hexdigest()[:32]}.npy"
    with writing_cache("vectors"):
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock"):
            _fill(file, encoder, texts, precision)
    vectors: NDArray[np.float32] = np.load(file, mmap_mode="r")
    return vectors


def _fill(file: Path, encoder: Encoder, texts: Sequence[str], precision: Precision) -> None:
    """Encode what is not in the file; `.done` says how many rows are."""
    mark, shape = file.with_suffix(".done"), (len(texts), encoder.dim)
    whole = file.exists() and file.stat().st_size >= len(texts) * encoder.dim * 4
    done = int(mark.read_text()) if mark.exists() and whole else 0
    if done >= len(texts):
        return
    out = np.lib.format.open_memmap(file, mode="r+" if done else "w+", dtype=np.float32, shape=None if done else shape)
    for start in range(done, len(texts), CHUNK):
        part = texts[start : start + CHUNK]
        out[start : start + len(part)] = unit(encoder.encode(part, precision=precision))
        out.flush()
        with atomic_file(mark) as scratch:
            scratch.write_text(str(start + len(part)))
        if len(texts) > CHUNK:
            log.info("vectors    %s of %s texts", f"{start + len(part):,}", f"{len(texts):,}")
