"""Post-processing: a linear map that is fitted on sentence vectors and saved as a part of the model.

Whitening, clipping of outlier dimensions and all-but-the-top are meant for encoders that were not trained for
similarity, and none of them always helps: score before and after. docs/experiments.md has a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cse.data.reading.rows import Column
from cse.data.reading.sources import read
from cse.encoder.checkpoint.layout import is_checkpoint
from cse.encoder.device import inference
from cse.encoder.heads import Dense, Normalize
from cse.errors import UserError
from cse.files import check_writable

if TYPE_CHECKING:
    from cse.encoder.device import Device
    from cse.encoder.model import Encoder
    from cse.encoder.poolers import PoolerName

Method = Literal["whiten", "clip", "all-but-the-top"]
DIMENSIONS = 256  # that are kept if nothing else is asked for (paper: 256 for base and 384 for large models)
SIGMA = 1.4826  # times the median distance from the median is the standard deviation of normal values
ROBUST = 9.0  # such deviations
BLOCK = 256  # texts whose states are held at once


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
    if not rank:
        raise UserError(f"whitening has {len(x):,} sentences, and all have one vector\nfix: give different sentences")
    k = min(DIMENSIONS, rank) if k is None else k
    if not 1 <= k <= rank:
        raise UserError(
            f"k is {k}, but {len(x):,} sentences vary in {rank} directions\nfix: give more sentences, or a smaller k"
        )
    kernel = directions[:, :k] / np.sqrt(values[:k])  # (H, k)
    return Dense.of(kernel, -mean @ kernel)


def fit_all_but_the_top(vectors: NDArray[np.floating], components: int | None = None) -> Dense:
    """Remove the mean and the first principal directions of sentence vectors, as a linear layer.

        y = (x - mu) (I - U U^T),    U the first directions (H, components) of the centered vectors

    All-but-the-top (Mu and Viswanath, ICLR 2018, arXiv:1702.01417, algorithm 1). On the vectors, y has mean 0 and
    U^T y = 0; the number of dimensions stays.

    Args:
        vectors: The sentence vectors (n, H).
        components: Number of directions to remove (paper: about H / 100); 0 subtracts the mean alone. None: H / 100, at
            least 1.

    Returns:
        A layer H -> H with weight I - U U^T and bias -mu (I - U U^T), computed in float64 and stored in float32.

    Raises:
        UserError: `components` is out of range, or the vectors vary in fewer directions.
    """
    x = np.asarray(vectors, dtype=np.float64)
    size = x.shape[1]
    components = max(1, round(size / 100)) if components is None else components
    most = min(size - 1, len(x) - 1)
    if not 0 <= components <= most:
        raise UserError(
            f"--components is {components}, and {len(x):,} vectors of {size} dimensions have at most {most} to remove\n"
            f"fix: give 0 to {most}, or more sentences"
        )
    mean = x.mean(0)  # (H,)
    _, directions = np.linalg.eigh(np.cov(x - mean, rowvar=False))  # ascending
    top = directions[:, ::-1][:, :components]  # (H, components)
    kept = np.eye(size) - top @ top.T
    return Dense.of(kept, -mean @ kept)


def whiten(
    encoder: Encoder,
    texts: Sequence[str],
    k: int | None = None,
    *,
    method: Method = "whiten",
    components: int | None = None,
) -> Encoder:
    """Append what a method fits on the texts, and scaling to unit length, to the encoder, which is changed.

    The arguments are those of `whiten_checkpoint`. The texts must not be a set that the encoder is scored on.
    """
    require_method(method, k, components)
    if method == "clip":
        dense = fit_clip(layer_means(encoder, texts))
    elif method == "whiten":
        dense = fit_whitening(encoder.encode(texts), k)
    else:
        dense = fit_all_but_the_top(encoder.encode(texts), components)
    encoder.append(dense, Normalize())
    return encoder


def require_method(method: str, k: int | None, components: int | None) -> None:
    """Check a method and its options."""
    if method not in get_args(Method):
        raise UserError(f"--method is {method!r}\nfix: give one of {', '.join(get_args(Method))}")
    for option, value, owner in (("--k", k, "whiten"), ("--components", components, "all-but-the-top")):
        if value is not None and method != owner:
            raise UserError(f"{option} is {value}, and --method {method} has no such number\nfix: omit {option}")


def whiten_checkpoint(
    checkpoint: str,
    out: Path,
    *,
    data: str,
    columns: Sequence[str] = ("text",),
    limit: int | None = None,
    method: Method = "whiten",
    k: int | None = None,
    components: int | None = None,
    device: Device = "auto",
    pooler: PoolerName | None = None,
) -> tuple[int, int, int]:
    """Load a checkpoint, whiten it on the texts of `data`, and save it as `out`.

    Args:
        checkpoint: A folder, `asset:NAME` or Hub id.
        out: Folder of the new checkpoint, or another checkpoint to replace.
        data: Sentences to fit on: a file, `asset:NAME` or Hub id. A repeated one counts as often as it occurs.
        columns: Columns of a table that hold texts.
        limit: Number of rows to fit on. None: all.
        method: `clip` sets outlier dimensions to 0, `all-but-the-top` removes the first components.
        k: Dimensions that `whiten` keeps. None: 256 (arXiv:2103.15316), or as many as vary.
        components: Components that `all-but-the-top` removes; 0: the mean alone. None: 1 of 100.
        device: See `cse.encoder.device`.
        pooler: See `Encoder`.

    Returns:
        The number of texts, and the dimensions before and after whitening.

    Raises:
        UserError: The checkpoint or the data cannot be read, k is out of range, or `out` is not a checkpoint.
    """
    from cse.encoder.device import choose
    from cse.encoder.model import Encoder

    require_method(method, k, components)
    require_new(out, checkpoint)
    texts = read_texts(data, columns, limit)
    encoder = Encoder.load(checkpoint, pooler=pooler).to(choose(device))
    before = encoder.dim
    whiten(encoder, texts, k, method=method, components=components).save(out)
    return len(texts), before, encoder.dim


def outliers(means: NDArray[np.floating]) -> NDArray[np.intp]:
    """The dimensions whose mean stands out in more than half of the layers, in their order.

        |m_lj - median_j m_l| > 9 * 1.4826 MAD_j m_l    for more than half of the layers l

    They dominate the cosine of untrained BERT and RoBERTa (Luo et al., ACL 2021, arXiv:2011.04393), whose
    authors name them by hand: this rule is ours. Mean and standard deviation would not do, because in narrow models
    two outliers hide each other from them.

    Args:
        means: (N, H) the mean of the states of each layer over tokens.
    """
    apart = np.abs(means - np.median(means, axis=1, keepdims=True))  # (N, H)
    spread = SIGMA * np.median(apart, axis=1, keepdims=True)
    return np.flatnonzero((apart > ROBUST * spread).mean(0) > 0.5)


def fit_clip(means: NDArray[np.floating]) -> Dense:
    """Set the `outliers` among the dimensions to 0, as a linear layer; a mean over tokens is clipped as its tokens are.

    Args:
        means: (N, H) the mean of the states of each layer over tokens.

    Returns:
        A layer H -> H whose weight is I without the rows of the outliers, and whose bias is 0.

    Raises:
        UserError: No dimension is an outlier.
    """
    found = outliers(means)
    if not len(found):
        raise UserError(
            f"none of the {means.shape[1]} dimensions is an outlier in more than half of the layers: nothing to clip\n"
            "fix: take the checkpoint as it is, or another --method"
        )
    kept = np.eye(means.shape[1])
    kept[found, found] = 0
    return Dense.of(kept, np.zeros(len(kept)))


def layer_means(encoder: Encoder, texts: Sequence[str]) -> NDArray[np.float64]:
    """(N + 1, H) the mean of the states of the embeddings and of each layer, over all tokens of texts."""
    changed = [type(module).__name__ for module in encoder.post if not isinstance(module, Normalize)]
    if changed or encoder.pooler != "mean":
        what = f"a {changed[0]} after pooling" if changed else f"the pooler {encoder.pooler}"
        raise UserError(
            f"--method clip needs vectors that are means of the backbone's states, and the checkpoint has {what}\n"
            "fix: give a plain model with --pooler mean, or another --method"
        )
    total, tokens = np.zeros((encoder.depth + 1, encoder.hidden_size)), 0
    with inference(encoder, "fp32", encoder.device):
        for start in range(0, len(texts), BLOCK):
            ids, mask = encoder.pad(encoder.tokenize(texts[start : start + BLOCK], encoder.prompt_text()))
            mask = mask.to(encoder.device)
            states = encoder.states(ids.to(encoder.device), mask).hidden  # N + 1 of (n, L, H)
            total += np.stack([(s.double() * mask[..., None]).sum((0, 1)).cpu().numpy() for s in states])
            tokens += int(mask.sum())
    return total / tokens


def require_new(out: Path, checkpoint: str) -> None:
    """Check that a checkpoint can be written beside the one that is read, before the work starts."""
    check_writable(out, kind="folder")
    if out.exists() and not is_checkpoint(out) and any(out.iterdir()):
        raise UserError(f"--out {out} exists and is not a checkpoint\nfix: give a new folder")
    if out.resolve().is_relative_to(Path(checkpoint).resolve()):
        raise UserError(f"--out {out} is the checkpoint {checkpoint} or in it\nfix: give a new folder beside it")


def read_texts(
    data: str, columns: Sequence[str], limit: int | None, *, options: tuple[str, str] = ("--data", "--columns")
) -> list[str]:
    """The texts of some columns, row by row, with repetitions; `options` are those that gave the first two."""
    if limit is not None and limit < 1:
        raise UserError(f"--limit is {limit}\nfix: give an integer >= 1, or omit it for all rows")
    rows = islice(read(data, [Column(options[1], column) for column in columns]), limit)
    texts = [cell.strip() for row in rows for cell in row.cells if cell and cell.strip()]
    if not texts:
        raise UserError(f"{options[0]} {data} has no text\nfix: give a file with sentences")
    return texts
