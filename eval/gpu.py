"""`python -m eval gpu-check`: what a CUDA GPU does here, in one file: tests, speed, memory, precisions and batch sizes.

Training is unsupervised SimCSE on a BERT of base size with random weights, on sentences of about 32 tokens.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from cse.console import say
from cse.errors import UserError
from cse.files import write_json
from eval import bench_train, memory
from eval.bench_train import WARMUP, Work

# Dense products in bfloat16 (float16 for the T4), TFLOP/s, as NVIDIA's data sheets of these cards give them.
PEAK = {"H200": 989, "H100 NVL": 835, "H100 PCIe": 756, "H100": 989, "A100": 312, "L40S": 362, "L4": 121, "T4": 65}
LENGTH = 32
BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
BATCHES = (64, 512, 4096, 16384)
DIRECT = 512  # the largest batch that is encoded at once


def check(
    out: Path, *, rounds: int = 3, steps: int = 25, sizes: Mapping[str, int] = BASE, batches: tuple[int, ...] = BATCHES
) -> dict[str, Any]:
    """Run the GPU's tests and measure training; what was measured is written after each part.

    The first `WARMUP` of the steps do not count; the second batch size is that of all comparisons.
    """
    found: dict[str, Any] = {"device": _device(), "torch": torch.__version__, "failed": {}}
    found["tests"] = _tests()
    with tempfile.TemporaryDirectory() as folder:
        backbone, corpus = Path(folder, "backbone"), Path(folder, "corpus.txt")
        memory.save_backbone(backbone, sizes)
        _write_sentences(corpus, 4 * max(batches))
        work = Work(backbone=str(backbone), corpus=str(corpus), steps=steps, precision="bf16", length=LENGTH)
        work = replace(work, batch=batches[1])

        def part(name: str, measure: Any) -> None:
            try:
                found[name] = measure()
                say(name, str(found[name]))
            except Exception as error:  # one part that fails, such as for want of memory, leaves the others
                found["failed"][name] = str(error).strip().splitlines()[0][:200]
                say(name, f"failed: {found['failed'][name]}")
            write_json(out, found)

        def ours(**changes: Any) -> dict[str, float]:
            changed = replace(work, **changes)
            measured = bench_train.alone(bench_train.ours, changed)
            return {**measured, **utilization(measured["sentences_per_s"], sizes)}

        part("against sentence-transformers", lambda: bench_train.against_peer(work, rounds))
        for precision in ("bf16", "fp16", "fp32"):
            part(precision, lambda precision=precision: ours(precision=precision))
        part("compiled", lambda: ours(compile=True))
        part("waits", lambda: waits(work, steps))
        for batch in batches:
            chunk = DIRECT if batch > DIRECT else None
            few = max(WARMUP + 3, steps * batches[1] // batch) if batch > batches[1] else steps
            part(f"batch {batch}", lambda batch=batch, chunk=chunk, few=few: ours(batch=batch, chunk=chunk, steps=few))
        for processes in (1, 2) if torch.cuda.device_count() > 1 else ():
            part(f"{processes} processes", lambda processes=processes: _processes(work, Path(folder), processes))
    write_json(out, found)
    if found["failed"] or found["tests"]["exit_code"]:
        failed = [*found["failed"], *(["tests"] if found["tests"]["exit_code"] else [])]
        raise UserError(f"gpu-check: {', '.join(failed)} failed\nfix: see {out}")
    return found


def flops(sizes: Mapping[str, int], length: int = LENGTH) -> float:
    """The operations of training on one encoded sentence: of the layers' products, twice as many backwards as forwards.

    A token meets 4 H^2 + 2 H I weights in a layer, each in a multiplication and an addition, and 2 L H of the products
    of attention, twice: 2 (4 H^2 + 2 H I) + 4 L H. Embeddings, norms and the loss do not count.
    """
    hidden, inner, layers = sizes["hidden_size"], sizes["intermediate_size"], sizes["num_hidden_layers"]
    return 3.0 * layers * length * (2 * (4 * hidden**2 + 2 * hidden * inner) + 4 * length * hidden)


def utilization(sentences_per_s: float, sizes: Mapping[str, int], device: str | None = None) -> dict[str, float]:
    """Operations a second, and their share of the data sheet's for 16-bit products, if the card is known."""
    device = _device() if device is None else device
    reached = sentences_per_s * flops(sizes) / 1e12
    peak = next((value for name, value in PEAK.items() if name in device), None)
    return {"tflops": round(reached, 2)} | ({} if peak is None else {"mfu": round(reached / peak, 4)})


def waits(work: Work, steps: int) -> dict[str, float]:
    """How often the host waits for the GPU in a step, as torch counts it: by runs of `steps` and of twice as many."""
    few, many = (bench_train.alone(_synchronized, replace(work, steps=count * steps)) for count in (1, 2))
    return {"waits_per_step": (many["waits"] - few["waits"]) / steps}


def _synchronized(work: Work) -> dict[str, float]:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        bench_train.ours(work)
    return {"waits": float(sum("synchronizing" in str(one.message) for one in seen))}


def _processes(work: Work, folder: Path, processes: int) -> dict[str, float]:
    """Sentences a second of `cse train` on one or several GPUs, with the batch of one for each."""
    recipe = {
        "data": {"class_path": "cse.data.Texts", "init_args": {"path": work.corpus}},
        "collator": {"class_path": "cse.data.TextViews", "init_args": {"max_length": work.length}},
        "encoder": {"class_path": "cse.encoder.Encoder", "init_args": {"backbone": work.backbone}},
        "objective": {"class_path": "cse.objectives.simcse.SimCSE"},
        "trainer": {
            "batch_size": work.batch * processes,
            "max_steps": work.steps,
            "eval_every": WARMUP,  # the rate is that of the last steps between two of these
            "precision": work.precision,
        },
    }
    (folder / "gpu.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    run = folder / f"run-{processes}"
    command = [sys.executable, "-m", "cse", "train", str(folder / "gpu.yaml"), f"--run-dir={run}"]
    subprocess.run([*command, f"--processes={processes}"], check=True, stdout=subprocess.DEVNULL)
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return {"sentences_per_s": float(json.loads(lines[-1])["sentences_per_s"])}


def _write_sentences(file: Path, rows: int) -> None:
    drawn = np.random.default_rng(0).choice(memory.WORDS, (rows, LENGTH))
    file.write_text("".join(f"{' '.join(words)}\n" for words in drawn), encoding="utf-8")


def _tests() -> dict[str, Any]:
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", "tests"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = ended.stdout.strip().splitlines()
    say("tests", lines[-1] if lines else ended.stderr.strip()[-200:])
    return {"exit_code": ended.returncode, "output": lines[-30:]}


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
