"""Whitening after training: a linear map that is fitted on sentence vectors and saved as a part of the model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from cse.encoder.heads import Dense, Normalize
from cse.encoder.layout import is_checkpoint
from cse.errors import UserError
from cse.files import check_writable

if TYPE_CHECKING:
    from cse.encoder.device import Device
    from cse.encoder.model import Encoder
    from cse.encoder.poolers import PoolerName


DIMENSIONS = 256  # that are kept if nothing else is asked for (paper: 256 for base and 384 for large models)


def fit_whitening(vectors: NDArray[np.floating], k: int | None = None) -> Dense:
    """PCA whitening of sentence vectors to their first k components, as a linear layer.

        y = (x - mu) K,    Sigma = U diag(s) U^T, s descending,    K = U diag(s^{-1/2}), first k columns

    mu and Sigma (unbiased) are those of the vectors; y has mean 0 and covariance I on them. BERT-whitening (Su et al.,
    2021, arXiv:2103.15316, algorithm 1: whitening-k). The columns of K are unique up to sign; the cosines are unique.

    Args:
        vectors: The sentence vectors X (n, H), with n > k.
        k: Number of dimensions to keep. None: `DIMENSIONS`, or as many as the vectors vary in, if these are fewer.

    Returns:
        A layer H -> k with weight K^T and bias -mu K, computed in float64 and stored in float32.

    Raises:
        UserError: k is out of range, or the vectors vary in fewer than k directions.

    Source: bojone/BERT-whitening, eng/utils.py, compute_kernel_bias.
    """
    x = np.asarray(vectors, dtype=np.float64)
    if k is not None and not 1 <= k <= x.shape[1]:
        raise UserError(f"k is {k}, but the vectors have {x.shape[1]} dimensions\nfix: give 1 to {x.shape[1]}")
    if len(x) < 2:
        raise UserError(f"whitening has {len(x)} sentences to fit on\nfix: give more sentences than dimensions")
    mean = x.mean(0)  # (H,)
    values, directions = np.linalg.eigh(np.cov(x - mean, rowvar=False).reshape(x.shape[1], -1))
    values, directions = values[::-1], directions[:, ::-1]  # descending
    rank = int((values > values[0] * x.shape[1] * np.finfo(np.float32).eps).sum())
    k = min(DIMENSIONS, rank) if k is None else k
    if not 1 <= k <= rank:
        raise UserError(
            f"k is {k}, but {len(x):,} sentences vary in {rank} directions\nfix: give more sentences, or a smaller k"
        )
    kernel = directions[:, :k] / np.sqrt(values[:k])  # (H, k)
    dense = Dense(x.shape[1], k, activation="identity")
    with torch.no_grad():
        dense.linear.weight.copy_(torch.from_numpy(kernel.T))
        dense.linear.bias.copy_(torch.from_numpy(-mean @ kernel))
    return dense


def whiten(encoder: Encoder, texts: Sequence[str], k: int | None = None) -> Encoder:
    """Append whitening, fitted on the vectors of the texts, and scaling to unit length to the encoder.

    Raises:
        UserError: Same as `fit_whitening`.
    """
    dense = fit_whitening(encoder.encode(texts), k)
    encoder.append(dense, Normalize())
    return encoder


def whiten_checkpoint(
    checkpoint: str,
    data: str,
    columns: Sequence[str],
    k: int | None,
    out: Path,
    *,
    limit: int | None = None,
    pooler: PoolerName | None = None,
    device: Device = "auto",
) -> tuple[int, int, int]:
    """Load a checkpoint, whiten it on the texts of `data`, and save it as `out`.

    Args:
        checkpoint: A folder, `asset:NAME` or Hub id.
        data: A file, `asset:NAME` or Hub id, as in recipes. A repeated text counts as often as it occurs.
        columns: The columns of a table to take texts from.
        k: Dimensions to keep; see `fit_whitening`.
        out: A new folder, or another checkpoint to replace.
        limit: Number of rows to read. None: all.
        pooler: The pooler of a plain Hugging Face model.
        device: The device to encode on; see `cse.encoder.device`.

    Returns:
        The number of texts, and the dimensions before and after whitening.

    Raises:
        UserError: The checkpoint or the data cannot be read, k is out of range, or `out` is not a checkpoint.
    """
    from cse.data.rows import Column
    from cse.data.sources import read
    from cse.encoder.device import choose
    from cse.encoder.model import Encoder

    check_writable(out, kind="folder")
    if out.exists() and not is_checkpoint(out) and any(out.iterdir()):
        raise UserError(f"--out {out} exists and is not a checkpoint\nfix: give a new folder")
    if out.resolve().is_relative_to(Path(checkpoint).resolve()):
        raise UserError(f"--out {out} is the checkpoint {checkpoint} or in it\nfix: give a new folder beside it")
    if limit is not None and limit < 1:
        raise UserError(f"--limit is {limit}\nfix: give an integer >= 1, or omit it for all rows")
    rows = islice(read(data, [Column("--columns", column) for column in columns]), limit)
    texts = [cell.strip() for row in rows for cell in row.cells if cell and cell.strip()]
    if not texts:
        raise UserError(f"--data {data} has no text\nfix: give a file with sentences")
    encoder = Encoder.load(checkpoint, pooler=pooler).to(choose(device))
    before = encoder.dim
    whiten(encoder, texts, k).save(out)
    return len(texts), before, encoder.dim
