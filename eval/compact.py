"""`python -m eval compact`: `cse bench-model` of encoders, and what a search of their quantized vectors finds."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cse.api.bench_model import bench_model
from cse.api.models import encode
from cse.console import say
from cse.evaluation import benchmark
from cse.files import read_json, write_json
from cse.inference.nearest import nearest
from cse.inference.quantize import Calibration, Kind, quantize

KINDS: tuple[Kind, ...] = ("int8", "uint8", "binary")
QUERIES, DEPTH = 200, 10  # texts whose nearest ones are looked for among the others, and the number of these


def measure(
    checkpoint: str,
    name: str,
    tasks: str,
    data: str | None,
    texts: str | None,
    variants: Sequence[str],
    precision: str,
    out: Path,
) -> dict[str, Any]:
    """Measure an encoder and its variants, and the search of its quantized vectors, and add both to a file.

    Args:
        checkpoint: The encoder.
        name: Its name in the file, in which other encoders stay.
        tasks: The tasks that it is scored on.
        data: The folder with their rows.
        texts: A file of texts, on which ranges are measured and tokens are counted, and which are searched. None: those
            of `cse bench-model`, and no search.
        variants: The variants; see `cse.bench_model`.
        precision: fp32, bf16 or auto.
        out: The JSON file.
    """
    options: dict[str, Any] = {"data": data, "texts": texts, "variants": variants, "precision": precision}
    found = bench_model(checkpoint, tasks, device="cpu", **options).as_dict()
    found["model"] |= {"name": name}
    every: dict[str, Any] = read_json(out) if out.is_file() else {}
    every[name] = found | ({} if texts is None else {"search": _search(checkpoint, texts)})
    say(name, benchmark.markdown(found))
    write_json(out, every)
    return every


def _search(checkpoint: str, texts: str) -> dict[str, dict[str, float]]:
    """The share x 100 of the nearest texts that a search of quantized vectors finds, by kind and way of searching."""
    with tempfile.TemporaryDirectory(prefix="cse-compact-") as scratch:
        whole = Path(scratch) / "whole.npy"
        encode(checkpoint, texts, whole, normalize=True, device="cpu", precision="fp32")
        vectors = np.load(whole)
    ranges = Calibration.of(vectors)
    queries, corpus = vectors[:QUERIES], vectors[QUERIES:]
    exact = np.argsort(-(queries @ corpus.T), axis=1)[:, :DEPTH]
    found: dict[str, dict[str, float]] = {}
    for kind in KINDS:
        codes = quantize(corpus, kind, ranges)
        ways: dict[str, dict[str, Any]] = {"once": {"multiplier": 1}, "again": {}}
        ways["again, by whole vectors"] = {"vectors": corpus}
        found[kind] = {
            way: _recall(nearest(queries, codes, DEPTH, kind=kind, calibration=ranges, **options).rows, exact)
            for way, options in ways.items()
        }
    return found


def _recall(found: NDArray[np.int64], exact: NDArray[np.int64]) -> float:
    """The share x 100 of the nearest rows that were found."""
    return 100 * float(np.mean([len(set(a) & set(b)) / DEPTH for a, b in zip(found, exact, strict=True)]))
