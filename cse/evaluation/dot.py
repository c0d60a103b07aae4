"""Dot products whose additions have a fixed order, so that a set of vectors has one score on every machine.

Equal sentences have equal vectors, whose cosine misses 1 by a last bit that depends on the order of additions. Ranks
break these ties, so the order shows in Spearman: by half a point on small sets with many equal pairs. The order here is
that of the BLAS (OpenBLAS with AVX) on which the engine of the field, SentEval, gave its reference numbers; the tests
against these numbers fail with numpy's own order.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def row_dot(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """The dot product of each row of a with the same row of b: (n, D), (n, D) -> (n,).

    Eight accumulators of two lanes are added in pairs; then the rest of the row follows one by one.
    """
    products = a * b
    whole = products.shape[1] // 16 * 16
    lanes = np.zeros((len(products), 8, 2))
    for start in range(0, whole, 16):
        lanes += products[:, start : start + 16].reshape(-1, 8, 2)
    while lanes.shape[1] > 1:
        lanes = lanes[:, 0::2] + lanes[:, 1::2]
    total: NDArray[np.float64] = lanes[:, 0, 0] + lanes[:, 0, 1]
    for column in range(whole, products.shape[1]):
        total = total + products[:, column]
    return total
