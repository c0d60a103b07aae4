"""`python -m eval neighbors`: what finding the neighbors of a row costs, by the number of rows, and what is found."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cse.console import say
from cse.errors import require_package
from cse.files import write_json
from cse.mining.neighbors import AUTO, Exact, contained, open_pool

WIDTH, LATENT, NOISE = 64, 16, 0.5  # dimensions of a vector, those that it varies in, and the noise in all
ANCHORS, NEAREST = 1_000, 10
BLOCK = 1 << 18  # rows that are drawn at once


def measure(sizes: list[int], out: Path, note: str = "") -> list[dict[str, Any]]:
    """Search pools of these sizes with `--index auto`, and compare with the exact search.

    Returns:
        A row for each size: seconds of one core to build, milliseconds of one core an anchor, and the recall.
    """
    faiss: Any = require_package("faiss", extra="faiss", user="eval neighbors")
    faiss.omp_set_num_threads(1)
    torch.set_num_threads(1)
    found = []
    for size in sizes:
        with tempfile.TemporaryDirectory(dir=out.parent) as folder:
            if shutil.disk_usage(folder).free < 6 * WIDTH * size:
                raise OSError(f"{folder} has no room for {size:,} vectors and their index")
            found.append(_of(draw(Path(folder) / "pool.npy", size)))
        say("neighbors", str(found[-1]))
        write_json(out, {"note": note, "width": WIDTH, "anchors": ANCHORS, "sizes": found})
    return found


def draw(file: Path, rows: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """Unit vectors of a Gaussian of 16 dimensions that is laid into 64, with noise in all."""
    rng = np.random.default_rng(seed)
    plane = rng.standard_normal((LATENT, WIDTH), dtype=np.float32)
    pool = np.lib.format.open_memmap(file, "w+", np.float32, (rows, WIDTH))
    for start in range(0, rows, BLOCK):
        count = min(BLOCK, rows - start)
        block = rng.standard_normal((count, LATENT), dtype=np.float32) @ plane
        block += NOISE * rng.standard_normal((count, WIDTH), dtype=np.float32)
        pool[start : start + count] = block / np.linalg.norm(block, axis=1, keepdims=True)
    pool.flush()
    found: np.ndarray[Any, Any] = np.load(file, mmap_mode="r")
    return found


def _of(pool: np.ndarray[Any, Any]) -> dict[str, Any]:
    own = np.linspace(0, len(pool) - 1, ANCHORS).astype(np.int64)
    anchors = np.array(pool[own])
    times = [time.process_time()]
    near = open_pool(pool, AUTO)
    times.append(time.process_time())
    rows, _ = near.search(anchors, NEAREST, own[:, None])
    times.append(time.process_time())
    wanted, _ = Exact(pool).search(anchors, NEAREST, own[:, None])
    times.append(time.process_time())
    built, searched, exact = np.diff(times).tolist()
    per_anchor = {"ms": round(1e3 * searched / ANCHORS, 3), "exact_ms": round(1e3 * exact / ANCHORS, 2)}
    recall = round(float(contained(rows, wanted).mean()), 4)
    return {"rows": len(pool), "build_seconds": round(built), **per_anchor, "recall": recall}
