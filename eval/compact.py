"""`python -m eval compact`: what smaller vectors of an encoder keep: static ones, and those of 8 bits and 1 bit."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cse.api.models import encode, evaluate
from cse.console import say
from cse.encoder.backbone import fetch
from cse.evaluation.loading import load_model
from cse.files import write_json
from cse.inference.encode import TextFile
from cse.inference.nearest import nearest
from cse.inference.quantize import FILE, Calibration, Kind, quantize
from cse.inference.static import static_checkpoint

KINDS: tuple[Kind, ...] = ("int8", "uint8", "binary")
TIMED = 512  # texts whose encoding is timed
ROUNDS, LEAST = 3, 0.5  # rounds, of which the fastest counts, and the seconds of a core that a round takes at least
QUERIES, DEPTH = 200, 10  # texts whose nearest ones are looked for among the others, and the number of these


def measure(checkpoint: str, task: str, data: str | None, texts: str, out: Path, note: str = "") -> dict[str, Any]:
    """Score and time an encoder, its static vectors, and its quantized vectors, and write all to a file.

    Args:
        checkpoint: The encoder.
        task: The STS task.
        data: The folder with its rows.
        texts: A file of texts, on which ranges are measured and tokens are counted, and which are searched.
        out: The JSON file.
        note: The conditions, kept in the file.
    """
    found: dict[str, Any] = {"note": note, "task": task, "models": {}, "quantized": {}, "search": {}}
    scoring: dict[str, Any] = {"data": data, "precision": "fp32", "device": "cpu"}
    with tempfile.TemporaryDirectory(prefix="cse-compact-") as scratch:
        folder = Path(scratch) / "model"  # which gets the ranges
        shutil.copytree(fetch(checkpoint), folder)
        wanted: dict[str, dict[str, Any]] = {"order of the vocabulary": {}, "counts in text": {"data": texts}}
        models = {"whole": folder}
        for name, ranks in wanted.items():
            models[f"static, by {name}"] = Path(scratch) / name
            static_checkpoint(str(folder), models[f"static, by {name}"], device="cpu", **ranks)
        some = list(
            islice((t for block in TextFile.scan(texts).blocks(TIMED) for t in block.texts if t.strip()), TIMED)
        )
        for name, path in models.items():
            encoder = load_model(str(path), device="cpu").encoder
            size = sum(weight.numel() for weight in encoder.parameters()) * 4 / 1e6
            score = evaluate(path, task, **scoring).scores[task]
            about = {"score": score, "megabytes": size, "bytes": 4 * len(encoder.encode(["a"])[0])}
            found["models"][name] = about | {"sentences_per_s": _speed(encoder.encode, some)}
            say(name, str(found["models"][name]))
        whole = Path(scratch) / "whole.npy"
        encode(folder, texts, whole, normalize=True, device="cpu", precision="fp32")
        vectors = np.load(whole)
        ranges = Calibration.of(vectors, {"normalize": True})
        ranges.write(folder / FILE)
        queries, corpus = vectors[:QUERIES], vectors[QUERIES:]
        exact = np.argsort(-(queries @ corpus.T), axis=1)[:, :DEPTH]
        for kind in KINDS:
            codes = quantize(corpus, kind, ranges)
            rows = {"once": {"multiplier": 1}, "again": {}, "again, by whole vectors": {"vectors": corpus}}
            found["search"][kind] = {
                name: _recall(nearest(queries, codes, DEPTH, kind=kind, calibration=ranges, **more).rows, exact)
                for name, more in rows.items()
            }
        by_kind = evaluate(folder, task, **scoring, quantize=KINDS).results["quantized"]
        found["quantized"] = {e["kind"]: {"score": e["tasks"][task], "bytes": e["bytes"]} for e in by_kind}
    write_json(out, found)
    return found


def _speed(encode: Callable[[list[str]], Any], texts: list[str]) -> float:
    """Texts in a second of one core, whatever else runs on the machine."""
    threads, fastest = torch.get_num_threads(), 0.0
    torch.set_num_threads(1)
    for _ in range(ROUNDS):
        start, done = time.process_time(), 0
        while time.process_time() - start < LEAST:
            encode(texts)
            done += len(texts)
        fastest = max(fastest, done / (time.process_time() - start))
    torch.set_num_threads(threads)
    return fastest


def _recall(found: NDArray[np.int64], exact: NDArray[np.int64]) -> float:
    """The share x 100 of the nearest rows that were found."""
    return 100 * float(np.mean([len(set(a) & set(b)) / DEPTH for a, b in zip(found, exact, strict=True)]))
