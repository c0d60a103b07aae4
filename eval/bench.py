"""The speed of scoring: against `mteb.evaluate` and a loop like SentEval's, on the same tasks and rows.

Precision is the same for all, and once more each has its default: mteb runs sentence-transformers in float32, and we
compute in bfloat16 where the hardware does (`precision: auto`).

Each round runs all of them, one after another, so that whatever else the machine does falls on all alike; a speed-up is
the median over rounds of one round's ratio.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cse.console import say
from cse.evaluation.encoding import comparison, embedder, resolve_precision
from cse.evaluation.evaluators import sts
from cse.evaluation.evaluators.sts_rows import TaskData
from cse.evaluation.loading import Model
from cse.files import read_json, write_json

SENTEVAL_BATCH = 128
OURS, BF16, MTEB, SENTEVAL = "ours", "ours bf16", "mteb", "senteval"

Runner = Callable[[], dict[str, float]]


def run(model: Model, data: Mapping[str, TaskData], rounds: int) -> dict[str, Any]:
    """Time everything in turn.

    The model must be one that our own encoder loads; rows are by task.

    Returns:
        Keys for bench.json.
    """
    runners = _runners(model, data)
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    processor: dict[str, list[float]] = {name: [] for name in runners}
    scores: dict[str, dict[str, float]] = {}
    for number in range(rounds):
        order = list(runners)[number % len(runners) :] + list(runners)[: number % len(runners)]
        for name in order:
            start, cpu = time.perf_counter(), time.process_time()
            scores[name] = runners[name]()
            seconds[name].append(time.perf_counter() - start)
            processor[name].append(time.process_time() - cpu)
            say("round", f"{number + 1}/{rounds}  {name:10s} {seconds[name][-1]:8.2f} s")
    bf16 = resolve_precision(model.encoder, "auto") == "bf16"
    return {
        **summary(seconds, processor, scores, default=BF16 if bf16 else OURS),
        "eval.cpu_seconds": {name: [round(s, 2) for s in values] for name, values in processor.items()},
        "eval.tasks": list(data),
        "eval.sentences": {
            "total": sum(2 * len(p) for item in data.values() for p in item.subsets.values()),
            "unique": len({t for item in data.values() for p in item.subsets.values() for t in (*p.first, *p.second)}),
        },
        "eval.threads": torch.get_num_threads(),
    }


def merge(found: Mapping[str, Any], out: Path) -> None:
    """Put keys into a bench.json, leaving other benchmarks' alone."""
    known: dict[str, Any] = read_json(out) if out.is_file() else {}
    write_json(out, known | dict(found))


def _runners(model: Model, data: Mapping[str, TaskData]) -> dict[str, Runner]:
    from sentence_transformers import SentenceTransformer

    peer = SentenceTransformer(str(model.folder))
    few = {name: _first(item, 64) for name, item in data.items()}

    def ours(precision: str, rows: Mapping[str, TaskData]) -> dict[str, float]:
        subsets = {name: item.subsets for name, item in rows.items()}
        scores = sts.score_all(subsets, embedder(model.encoder, precision), comparison(model.encoder))
        return {name: score.all.spearman for name, score in scores.tasks.items()}

    def make(rows: Mapping[str, TaskData]) -> dict[str, Runner]:
        tasks = _mteb_tasks(rows)
        return {
            OURS: lambda: ours("fp32", rows),
            MTEB: lambda: _mteb(peer, tasks),
            SENTEVAL: lambda: senteval_like(peer, rows),
            BF16: lambda: ours("bf16", rows),
        }

    for warm_up in make(few).values():
        warm_up()
    return make(data)


def senteval_like(peer: Any, data: Mapping[str, TaskData]) -> dict[str, float]:
    """Task by task, subset by subset, 128 pairs at a time as they come, each padded to its longest."""
    found = {}
    for name, item in data.items():
        cosines, golds = {}, {}
        for subset, pairs in item.subsets.items():
            parts = []
            for start in range(0, len(pairs), SENTEVAL_BATCH):
                rows = slice(start, start + SENTEVAL_BATCH)
                u, v = _forward(peer, pairs.first[rows]), _forward(peer, pairs.second[rows])
                parts += [
                    float(np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b))) for a, b in zip(u, v, strict=True)
                ]
            cosines[subset], golds[subset] = np.nan_to_num(np.array(parts)), pairs.gold
        found[name] = sts.task_score(cosines, golds, name).all.spearman
    return found


@torch.inference_mode()
def _forward(peer: Any, texts: Sequence[str]) -> Any:
    features = {k: v.to(peer.device) for k, v in peer.preprocess(list(texts)).items() if hasattr(v, "to")}
    return peer(features)["sentence_embedding"].float().cpu().numpy()


def _mteb_tasks(data: Mapping[str, TaskData]) -> dict[str, Any]:
    """Official tasks with our rows in place of theirs."""
    import mteb
    from datasets import DatasetDict

    from cse.evaluation.evaluators.mteb_adapter import OURS as THEIRS
    from cse.evaluation.evaluators.mteb_adapter import rows

    official = {ours: name for name, ours in THEIRS.items()}
    found = {}
    for name, item in data.items():
        task = mteb.get_task(official.get(item.task.base, "STSBenchmark"))
        task.dataset, task.data_loaded = DatasetDict({"test": rows([item])}), True
        found[name] = task
    return found


def _mteb(peer: Any, tasks: Mapping[str, Any]) -> dict[str, float]:
    import mteb

    found = {}
    for name, task in tasks.items():
        with warnings.catch_warnings():  # it asks sentence-transformers for a method by its old name
            warnings.simplefilter("ignore", FutureWarning)
            result = mteb.evaluate(peer, [task], cache=None, show_progress_bar=False, co2_tracker=False)
        found[name] = 100 * result.task_results[0].scores["test"][0]["cosine_spearman"]
    return found


def _first(item: TaskData, n: int) -> TaskData:
    """A few rows of a task, to warm up with."""
    from cse.evaluation.evaluators.sts_rows import Pairs

    subset, pairs = next(iter(item.subsets.items()))
    return TaskData(item.task, {subset: Pairs(pairs.first[:n], pairs.second[:n], pairs.gold[:n])}, item.source)


def summary(
    seconds: Mapping[str, Sequence[float]],
    processor: Mapping[str, Sequence[float]],
    scores: Mapping[str, Mapping[str, float]],
    *,
    default: str,
) -> dict[str, Any]:
    """Ratios of times, and how far apart the scores are that they were spent on.

    Seconds are of each round, `processor` those of the processor, and scores those of the tasks, each by what was
    timed. `default` is the one that has our default settings, `OURS` or `BF16`.
    """

    def speedups(slow: str, fast: str, times: Mapping[str, Sequence[float]] = seconds) -> list[float]:
        return [round(b / a, 3) for a, b in zip(times[fast], times[slow], strict=True)]

    def apart(name: str, other: str = OURS) -> float:
        return round(max(abs(scores[name][task] - score) for task, score in scores[other].items()), 4)

    ratios = {"mteb": speedups(MTEB, OURS), "senteval": speedups(SENTEVAL, OURS), "bf16": speedups(OURS, BF16)}
    defaults = {
        "precision": "bf16" if default == BF16 else "fp32",
        "tasks": list(scores[OURS]),
        "score_apart": apart(MTEB, default),
        "speedups": speedups(MTEB, default),
        "processor_speedups": speedups(MTEB, default, processor),
        "fp32_processor_speedups": speedups(MTEB, OURS, processor),
    }
    return {
        **{f"eval.speedup_{name}": round(statistics.median(each), 3) for name, each in ratios.items()},
        **{f"eval.speedups_{name}": each for name, each in ratios.items()},
        "eval.score_apart": {name: apart(name) for name in (MTEB, SENTEVAL, BF16)},
        "eval.default": defaults,
        "eval.seconds": {name: [round(s, 2) for s in values] for name, values in seconds.items()},
    }
