"""The speed of training: our trainer against sentence-transformers', on the same rows, batches, length and precision.

Both take the same optimizer steps of unsupervised SimCSE (sentence-transformers: MultipleNegativesRankingLoss on the
sentence paired with itself) from the same backbone with fused AdamW. Each measurement is a process of its own, so that
its peak memory is its own, and the two take turns. The first steps are not counted.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from cse.console import quiet, say

WARMUP = 5
BATCH, RATE = 64, 3e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is trained."""

    backbone: str
    corpus: str  # the sentences
    steps: int  # optimizer steps, of which the first `WARMUP` do not count
    precision: str  # the precision of the products
    length: int  # the most tokens of a sentence
    batch: int = BATCH  # sentences in a step, each of which is encoded twice
    chunk: int | None = None  # sentences that are encoded at once with gradient caching; None: all. In our trainer only
    compile: bool = False  # whether layers are compiled; in our trainer only


def run(backbone: str, corpus: str, *, steps: int, rounds: int, precision: str, length: int) -> dict[str, Any]:
    """Measure both in turn; returns keys for bench.json."""
    from cse.encoder.device import resolved

    precision = resolved(precision, torch.device(_device()))
    work = Work(backbone=backbone, corpus=corpus, steps=steps, precision=precision, length=length)
    return against_peer(work, rounds)


def against_peer(work: Work, rounds: int) -> dict[str, Any]:
    """Measure both in turn on the same work; returns keys for bench.json."""
    found: dict[str, list[dict[str, float]]] = {"ours": [], "peer": []}
    for number in range(rounds):
        for name in ("ours", "peer") if number % 2 == 0 else ("peer", "ours"):
            last = alone(ours if name == "ours" else peer, work)
            found[name].append(last)
            measured = f"{last['sentences_per_s']:8.1f} sentences/s  {last['peak_mb']:6.0f} MB"
            say("round", f"{number + 1}/{rounds}  {name:5s} {measured}")
    speed = {name: [one["sentences_per_s"] for one in ones] for name, ones in found.items()}
    memory = {name: [one["peak_mb"] for one in ones] for name, ones in found.items()}
    ratios = [a / b for a, b in zip(speed["ours"], speed["peer"], strict=True)]
    return {
        "train.speedup": round(statistics.median(ratios), 3),
        "train.speedups": [round(r, 3) for r in ratios],
        "train.memory_ratio": round(
            statistics.median(a / b for a, b in zip(memory["ours"], memory["peer"], strict=True)), 3
        ),
        "train.sentences_per_s": {name: [round(v, 1) for v in values] for name, values in speed.items()},
        "train.peak_mb": {name: [round(v) for v in values] for name, values in memory.items()},
        "train.setting": f"{work.backbone}, {work.corpus}, batch {work.batch}, max {work.length} tokens, "
        f"{work.precision}, {work.steps} steps",
    }


def alone(measure: Callable[[Work], dict[str, float]], work: Work) -> dict[str, float]:
    """A measurement in a process of its own, whose peak memory is its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=quiet) as process:
        return process.submit(measure, work).result()


def ours(work: Work) -> dict[str, float]:
    """One measurement of our trainer."""
    from cse.data.datasets import Texts
    from cse.data.views.texts import TextViews
    from cse.encoder.model import Encoder
    from cse.interfaces import Callback
    from cse.objectives.simcse import SimCSE
    from cse.recipe.settings import Settings
    from cse.seeding import seed_dropout
    from cse.training.run import Run
    from cse.training.trainer import Trainer

    seed_dropout(42)
    clock = _Clock(work)

    class Tick(Callback):
        def on_step(self, run: Any, metrics: dict[str, float]) -> None:
            clock.tick()

    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            batch_size=work.batch,
            chunk_size=work.chunk,
            compile=work.compile,
            max_steps=work.steps,
            learning_rate=RATE,
            eval_every=10**9,
            precision=work.precision,  # type: ignore[arg-type]
        )
        run = Run(
            name="bench",
            folder=Path(folder) / "run",
            seed=42,
            data=Texts(work.corpus),
            collator=TextViews(max_length=work.length),
            encoder=Encoder(work.backbone, pooler="cls"),
            objective=SimCSE(),
            evaluator=None,
            settings=settings,
            callbacks=[Tick()],
        )
        Trainer(run).fit()
    return clock.result()


def peer(work: Work) -> dict[str, float]:
    """One measurement of sentence-transformers' trainer."""
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import MultipleNegativesRankingLoss
    from sentence_transformers.models import Pooling, Transformer
    from transformers import TrainerCallback

    from cse.data.datasets import Texts
    from cse.encoder.checkpoint.source import locate

    torch.manual_seed(42)
    body = Transformer(locate(work.backbone), max_seq_length=work.length)
    body.float()  # same as ours: weights in float32, whatever the type in the file
    model = SentenceTransformer(modules=[body, Pooling(body.get_word_embedding_dimension(), "cls")], device=_device())
    texts = [example.texts[0] for example in Texts(work.corpus)]
    clock = _Clock(work)

    class Tick(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.tick()

    with tempfile.TemporaryDirectory() as folder:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=folder,
            max_steps=work.steps,
            per_device_train_batch_size=work.batch,
            learning_rate=RATE,
            seed=42,
            bf16=work.precision == "bf16",
            fp16=work.precision == "fp16",
            use_cpu=_device() == "cpu",
            lr_scheduler_type="linear",
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            optim="adamw_torch_fused",
        )
        SentenceTransformerTrainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_dict({"anchor": texts, "positive": texts}),
            loss=MultipleNegativesRankingLoss(model),
            callbacks=[Tick()],
        ).train()
    return clock.result()


class _Clock:
    """Time from the end of the warm-up to the end of the last step."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.ends: list[float] = []
        self.processor: list[float] = []

    def tick(self) -> None:
        if len(self.ends) + 1 in (WARMUP, self.work.steps) and torch.cuda.is_available():
            torch.cuda.synchronize()  # at the two ends only: between them, steps may be queued
        self.ends.append(time.perf_counter())
        self.processor.append(time.process_time())

    def result(self) -> dict[str, float]:
        from cse.training.hardware import peak_memory

        seconds = self.ends[self.work.steps - 1] - self.ends[WARMUP - 1]
        cpu = self.processor[self.work.steps - 1] - self.processor[WARMUP - 1]
        sentences = 2 * self.work.batch * (self.work.steps - WARMUP)
        return {
            "sentences_per_s": sentences / seconds,
            "sentences_per_cpu_s": sentences / cpu,
            "peak_mb": peak_memory(torch.device(_device())),
        }


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
