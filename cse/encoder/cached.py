"""Unit vectors of many texts, encoded once and kept in the cache as a memory-mapped array, for miners and teachers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cse import distributed
from cse.console import progress
from cse.encoder.ahead import ahead
from cse.encoder.vectors import resumable, unit
from cse.errors import UserError
from cse.files import cache_dir, writing_cache

if TYPE_CHECKING:
    from cse.encoder.model import Encoder
    from cse.encoder.precision import Precision
    from cse.encoder.windows import Windows

CHUNK = 8_192  # texts that are encoded before the rows are saved


def cached_vectors(
    encoder: Encoder,
    model_hash: str,
    texts: Sequence[str],
    precision: Precision,
    prompt: str = "",
    *,
    together: bool = False,
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
        together: Whether all processes call this, so that each encodes its share and one writes the file.

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
        with FileLock(f"{file}.lock") if _writes(together) else nullcontext():
            _fill(file, encoder, texts, precision, prompt, together=together)
    if together and not distributed.comes(file.is_file):
        raise UserError(
            f"vectors: process 0 wrote {file}, which does not appear to {distributed.me()}\n"
            "fix: set CSE_CACHE to one folder on a file system that all nodes share"
        )
    vectors: NDArray[np.float32] = np.load(file, mmap_mode="r")
    return vectors


def _writes(together: bool) -> bool:
    return not together or distributed.rank() == 0


def _fill(
    file: Path, encoder: Encoder, texts: Sequence[str], precision: Precision, prompt: str, *, together: bool
) -> None:
    def read(start: int) -> Windows:
        return encoder.read(texts[start : start + CHUNK], prompt=prompt)

    with ExitStack() as opened:
        rows, advance = None, None
        if _writes(together) and not file.exists():
            rows = opened.enter_context(resumable(file, (len(texts), encoder.dim), {}))
            advance = opened.enter_context(progress("vectors", len(texts), lines=len(texts) > CHUNK))
        done = len(texts) if rows is None else rows.done
        starts = range(distributed.broadcast(done) if together else done, len(texts), CHUNK)
        own = starts[distributed.rank() :: distributed.world_size()] if together else starts
        tokens = opened.enter_context(ahead(read, own))

        def encode(_: int) -> NDArray[np.float32]:
            return unit(encoder.encode_read(next(tokens), precision=precision))

        for vectors in distributed.in_turn(starts, encode) if together else map(encode, starts):
            if rows is not None and advance is not None:
                rows.append(vectors)
                advance(rows.done)
        if rows is not None:
            rows.finish()
    if together:
        distributed.broadcast(None)  # no process reads the file before it is complete
