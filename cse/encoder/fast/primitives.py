"""Fewer compiled products in memory on a CPU.

oneDNN, the library under torch's products in bfloat16, compiles one for every shape of its arguments and keeps the last
1,024. Batches of texts have ever new shapes, so a training run gathers products that it never meets again.
"""

from __future__ import annotations

import os

_CAPACITY = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
KEPT = 128  # asset:mini, 31 steps of 64: 1,255 MB at the same speed; 1,605 MB with 1,024


def keep_few_primitives() -> None:
    """Keep the last `KEPT` compiled products, unless the environment has a number.

    It has an effect until the process computes its first such product, when oneDNN reads the variable.
    """
    os.environ.setdefault(_CAPACITY, str(KEPT))
