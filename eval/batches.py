"""`python -m eval batches`: the memory and the time of a training step by the size of its batch."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from cse.console import say
from cse.files import read_json, write_json
from eval.memory import watch

BASE = 64  # the batch that others are compared with; its gradients are not cached
LENGTH = 32  # largest number of tokens of a text
SENTENCES = 8192  # texts of a run, at least: two views of each row
SETTING = f"asset:mini, SimCSE on two views of sentences of asset:wiki, at most {LENGTH} tokens"


def measure(
    sizes: Sequence[int], tokens: int, processes: int, rounds: int, out: Path, note: str = ""
) -> dict[str, Any]:
    """Train on batches of each size with gradients cached, each time after a run on batches of 64 without.

    Args:
        sizes: Batch sizes.
        tokens: `trainer.chunk_tokens`.
        processes: Number of processes.
        rounds: Number of times that each size is trained; the median of the rounds is kept.
        out: The file to write; what it has of other sizes, chunks and numbers of processes stays.
        note: The conditions, kept in the file.

    Returns:
        For each size: the largest resident memory of a process that is not backed by a file (RssAnon), in MB, and that
        of batch 64; the processor milliseconds for a sentence, over all processes, and their ratio to those of the run
        on batch 64 before it. Processor time is less disturbed by other work on the machine than elapsed time.
    """
    before: dict[str, Any] = read_json(out) if out.exists() else {"runs": [], "note": ""}
    found = before["runs"]
    with tempfile.TemporaryDirectory() as folder:
        texts = Path(folder, "texts.txt")
        texts.write_text("\n".join(islice(sentences(), max(sizes))), encoding="utf-8")
        for size in sizes:
            pairs = []
            for _ in range(rounds):
                base = _train(Path(folder), BASE, None, processes)
                pairs.append((base, _train(Path(folder), size, tokens, processes)))
            one = {
                "batch": size,
                "processes": processes,
                "chunk_tokens": tokens,
                "peak_mb": round(median(run["peak_mb"] for _, run in pairs)),
                "base_peak_mb": round(median(base["peak_mb"] for base, _ in pairs)),
                "ms": round(median(run["ms"] for _, run in pairs), 2),
                "time_over_base": round(median(run["ms"] / base["ms"] for base, run in pairs), 2),
                "rounds": rounds,
            }
            key = ("batch", "processes", "chunk_tokens")
            found = [run for run in found if any(run[k] != one[k] for k in key)] + [one]
            found.sort(key=lambda run: (run["processes"], run["chunk_tokens"], run["batch"]))
            say("batches", str(one))
            write_json(out, {"setting": SETTING, "base": BASE, "note": note or before["note"], "runs": found})
    return {"runs": found}


def sentences() -> Iterator[str]:
    """The sentences of asset:wiki, then the same with their words rotated by one, by two, and so on: all different."""
    from cse.assets import resolve

    known = [line.split() for line in resolve("wiki").read_text(encoding="utf-8").splitlines()]
    for shift in count():
        yield from (" ".join(words[shift:] + words[:shift]) for words in known if len(words) > shift)


def _train(folder: Path, size: int, tokens: int | None, processes: int) -> dict[str, float]:
    """The memory and the processor time for a sentence of a run of one step, or of as many as make enough sentences."""
    steps = max(1, SENTENCES // (2 * size))
    recipe = {
        "data": {"class_path": "cse.data.Texts", "init_args": {"path": str(folder / "texts.txt")}},
        "collator": {"class_path": "cse.data.TextViews", "init_args": {"max_length": LENGTH}},
        "encoder": {"class_path": "cse.encoder.Encoder", "init_args": {"backbone": "asset:mini"}},
        "objective": {"class_path": "cse.objectives.simcse.SimCSE"},
        "trainer": {
            "batch_size": size,
            "max_steps": steps,
            "eval_every": 1_000_000,
            "chunk_tokens": tokens,
            "compare_initial": "never",
        },
    }
    (folder / "batches.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    launch = ["torch.distributed.run", f"--nproc-per-node={processes}", "--standalone", "-m"] if processes > 1 else []
    run = Path(tempfile.mkdtemp(dir=folder), "run")
    found = watch([sys.executable, "-m", *launch, "cse", "train", str(folder / "batches.yaml"), f"--run-dir={run}"])
    return {"peak_mb": found.peak_mb, "ms": 1000 * found.processor_after / (2 * size * steps)}
