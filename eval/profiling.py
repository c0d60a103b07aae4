"""`python -m eval profile`: where the processor time of a training step goes.

The steps are those of `cse train`. Processor time is taken of steps without a profiler, and its division from further
steps under torch.profiler, which adds about a tenth, most of it to what is not arithmetic. The time of an operation is
elapsed time, so that other work on the machine falls on all alike.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from cse import recipe as recipes
from cse.console import say
from cse.files import read_json, write_json
from cse.training.run import Callback, Run
from cse.training.start import assemble
from cse.training.trainer import Trainer

WARMUP = 3  # steps that do not count
PRODUCTS = ("aten::mm", "aten::addmm")  # of linear layers, forward and backward; those of attention are aten::bmm
KINDS = {  # the first that is found in an operation's name
    "products": re.compile("^aten::(mm|addmm)$"),
    "attention": re.compile("bmm|softmax|scaled_dot_product"),
    "optimizer": re.compile(r"Optimizer|adam|foreach|linalg_vector_norm|clamp"),
    "data": re.compile("DataLoader"),
    "copies": re.compile("^aten::(copy_|cat|clone|fill_|index.*|constant_pad_nd)$"),
    "pointwise": re.compile(
        "^aten::(mul|add|sub|div|neg|pow|rsqrt|mean|sum|ge|random|bernoulli|.*gelu|.*silu|.*tanh|.*layer_norm|arg|where"
        "|.*embedding|.*log|exp|masked|.*norm|native_dropout|.*threshold|relu|eq|lt|bitwise)"
    ),
}
REST = "the rest"  # Python, autograd, and operations that only make views


def measure(commands: Sequence[str], steps: int, out: Path, note: str) -> None:
    """Profile recipes, each with its options behind it, and keep what is found in a file, where others stay."""
    found: dict[str, Any] = read_json(out) if out.exists() else {"runs": {}}
    found["note"] = note or found.get("note", "")
    for command in commands:
        one = profiled(command.split(), steps)
        found["runs"][command] = one
        say(command, str(one))
        write_json(out, found)


def profiled(command: Sequence[str], steps: int) -> dict[str, Any]:
    """The milliseconds of the processor for a step, the share of each kind, and the products' part of the peak."""
    watch, (name, *options) = _Watch(steps), command
    fixed = [f"--trainer.max_steps={WARMUP + 2 * steps}", "--trainer.eval_every=1000000", "--evaluator=null"]
    with tempfile.TemporaryDirectory() as folder:
        run = assemble(recipes.load(name, [*options, *fixed]), Path(folder, "run"), [watch])
        Trainer(run).fit()
    milliseconds = 1000 * median(watch.processor)
    events = watch.profiler.events()  # type: ignore[no-untyped-call]
    shares, operations = divided(events, watch.seconds)
    rate = operations / (watch.under_profiler * shares["products"])
    used = rate / peak(torch.bfloat16 if "bf16" in run.hardware else torch.float32)
    shares = {kind: round(100 * share, 1) for kind, share in shares.items()}
    return {"ms": round(milliseconds), "of_peak": round(100 * used), "shares": shares, "hardware": run.hardware}


def divided(events: Iterable[Any], seconds: float) -> tuple[dict[str, float], int]:
    """The share of each kind in the seconds that a profile took, and the operations of the products."""
    spent: Counter[str] = Counter()
    operations = 0
    for event in events:
        kind = next((kind for kind, pattern in KINDS.items() if pattern.search(event.name)), REST)
        spent[kind] += event.self_cpu_time_total
        if event.name in PRODUCTS:
            (rows, inner), (_, columns) = (shape for shape in event.input_shapes if len(shape) == 2)  # not the bias
            operations += 2 * rows * inner * columns
    shares = {kind: spent[kind] / 1e6 / seconds for kind in KINDS}
    return shares | {REST: 1 - sum(shares.values())}, operations


def peak(kind: torch.dtype) -> float:
    """The most operations in a second of the processor that a large product reaches."""
    factor = torch.randn(2048, 2048).to(kind)
    each = []
    for _ in range(8):
        start = time.process_time()
        factor @ factor
        each.append(time.process_time() - start)
    return float(2 * 2048**3 / min(each))


class _Watch(Callback):
    """Takes the processor time of some steps, and then profiles as many."""

    def __init__(self, steps: int) -> None:
        self.steps, self.taken, self.start = steps, 0, 0.0
        self.processor: list[float] = []  # seconds of each timed step
        self.seconds, self.under_profiler = 0.0, 0.0  # of all profiled steps: elapsed, and of the processor
        self.profiler = torch.profiler.profile(record_shapes=True, activities=[torch.profiler.ProfilerActivity.CPU])

    def on_step(self, run: Run, metrics: dict[str, float]) -> None:
        """A step is over."""
        self.taken += 1
        if WARMUP < self.taken <= WARMUP + self.steps:
            self.processor.append(time.process_time() - self.start)
        if self.taken == WARMUP + self.steps:
            self.profiler.start()
            self.seconds, self.under_profiler = time.perf_counter(), time.process_time()
        if self.taken == WARMUP + 2 * self.steps:
            self.seconds = time.perf_counter() - self.seconds
            self.under_profiler = time.process_time() - self.under_profiler
            self.profiler.stop()
        self.start = time.process_time()
