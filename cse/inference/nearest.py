"""The nearest rows among quantized vectors: a fast pass over all, and a better look at the best."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cse.errors import UserError, require_at_least
from cse.inference.quantize import Calibration, Codes, Kind, as_bytes, dequantize, needs_calibration, quantize
from cse.inference.sharded import ShardedVectors, VectorsOnDisk

BLOCK = 16_384  # rows that are compared with a query at once
BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1, dtype=np.uint8)  # (256,) ones in a byte


class Nearest(NamedTuple):
    """The nearest rows of each query.

    Attributes:
        rows: (m, k) numbers of rows, the nearest first.
        scores: (m, k) inner products of the query with these rows.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]


def nearest(
    queries: NDArray[np.floating],
    corpus: Codes | ShardedVectors,
    k: int,
    *,
    kind: Kind,
    calibration: Calibration | None = None,
    vectors: VectorsOnDisk | None = None,
    multiplier: int = 4,
) -> Nearest:
    """Search codes for the rows that are nearest to queries, and score the best again more exactly.

    A first pass over all rows compares bits by the number of equal ones, and 8 bits by the inner product. Of its best
    `multiplier` k, the inner products of the query's own vector with the rows decide.

    Args:
        queries: (m, D) vectors, which are not quantized.
        corpus: (n, .) codes of n rows, which may be on disk; see `cse.open_vectors`.
        k: Number of rows to find; at most n.
        kind: The kind of the codes.
        calibration: The ranges, which int8 and uint8 need.
        vectors: (n, D) the rows as they were, which may be on disk: only the best of the first pass are read. None: the
            vectors that the codes stand for.
        multiplier: Rows of the first pass that are scored again, for each of the k.

    Raises:
        UserError: An argument is out of range or of another size.
    """
    require_at_least(1, "nearest", k=k, multiplier=multiplier)
    first = quantize(queries[:1], kind, calibration)
    if corpus.ndim != 2 or corpus.shape[1] != first.shape[1] or corpus.dtype != first.dtype:
        what = f"{corpus.shape} of {corpus.dtype}, and vectors of {queries.shape[1]} dimensions have {first.shape[1]}"
        raise UserError(f"the corpus of {kind} codes is {what} of {first.dtype}\nfix: give codes of the same model")
    k, size = min(k, len(corpus)), queries.shape[1]
    found = Nearest(np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32))
    for i, query in enumerate(np.asarray(queries, dtype=np.float32)):
        rough = _first_pass(query, corpus, kind, calibration)  # (n,)
        best = _largest(rough, min(multiplier * k, len(corpus)))
        exact = dequantize(corpus[best], kind, calibration)[:, :size] if vectors is None else vectors[best]
        scores = exact @ query
        order = np.lexsort((best, -scores))[:k]
        found.rows[i], found.scores[i] = best[order], scores[order]
    return found


def _first_pass(
    query: NDArray[np.float32], corpus: Codes | ShardedVectors, kind: Kind, calibration: Calibration | None
) -> NDArray[np.float32]:
    """(n,) how near each row seems."""
    parts = [np.zeros(0, dtype=np.float32)]
    code = as_bytes(quantize(query[None], kind, calibration), kind)
    for start in range(0, len(corpus), BLOCK):
        block = corpus[start : start + BLOCK]
        if needs_calibration(kind):
            parts.append(dequantize(block, kind, calibration) @ query)
        else:
            parts.append(-BITS[as_bytes(block, kind) ^ code].sum(1, dtype=np.float32))  # the negative Hamming distance
    return np.concatenate(parts)


def _largest(scores: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """The rows of the `count` largest scores; of equal ones, the first."""
    return np.argsort(-scores, kind="stable")[:count]
