"""`python -m eval memory`: the memory and the start-up time of training and mining by the number of rows."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import psutil  # type: ignore[import-untyped, unused-ignore]
import yaml

from cse.console import say
from cse.files import read_json, write_json

WORDS = [
    *("the", "a", "of", "in", "on", "man", "woman", "dog", "cat", "child", "plays", "runs", "sits", "eats", "reads"),
    *("red", "blue", "old", "small", "big", "near", "park", "road"),
]
WORDS += [
    f"{a}{b}" for a in ("sun", "rain", "snow", "wood", "stone", "hill") for b in ("light", "fall", "side", "work")
]
LENGTH = 5  # words of a text
SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
BLOCK = 200_000  # rows that are generated at once
SETTING = "a word-level BERT of 1 layer, batches of 64 pairs, 4 steps"
WIDTH = 16  # dimensions of the vectors that are mined
ANCHORS = 512  # about as many of the rows are mined for
EVERY = 0.05  # seconds between two looks at the memory


def measure(rows: Sequence[int], processes: Sequence[int], out: Path, note: str = "") -> dict[str, Any]:
    """Train on each number of rows, on each number of processes, twice: with an empty cache, then with a filled one.

    What the file has of other numbers stays.

    Returns:
        For each run: seconds from the start of the command to the first step, and of the processor until then, over all
        processes; and for the process that has most, the largest resident memory that is not backed by a file
        (RssAnon), in MB.
    """
    before = _known(out)
    new = [(count, number) for count in rows for number in processes]
    found: list[dict[str, Any]] = [run for run in before["runs"] if (run["rows"], run["processes"]) not in new]
    note = note or before["note"]
    for count in rows:
        for number in processes:
            with tempfile.TemporaryDirectory() as folder:
                save_backbone(Path(folder, "backbone"))
                generate(Path(folder, "pairs.parquet"), count)
                for start in ("first", "second"):
                    one = _train(Path(folder), start, number)
                    found.append({"rows": count, "processes": number, "start": start, **one})
                    say("memory", str(found[-1]))
                    found.sort(key=lambda run: (run["rows"], run["processes"]))
                    write_json(out, before | {"setting": SETTING, "note": note, "runs": found})
    return {"runs": found}


def measure_mining(rows: Sequence[int], out: Path, note: str = "") -> list[dict[str, Any]]:
    """Mine for some anchors among each number of texts, with given vectors, twice: with an empty cache, then again.

    Texts have 5 words. What the file has of training and of other numbers stays.

    Returns:
        For each run: seconds of the processor, and the largest resident memory that is not backed by a file (RssAnon),
        in MB.
    """
    before = _known(out)
    found: list[dict[str, Any]] = [run for run in before.get("mining", []) if run["rows"] not in rows]
    for count in rows:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            generate(folder / "pairs.parquet", count)
            vectors = np.lib.format.open_memmap(folder / "v.npy", "w+", np.float32, (count, WIDTH))
            for start in range(0, count, BLOCK):
                part = vectors[start : start + BLOCK]
                part[:] = np.random.default_rng(start).normal(size=part.shape)
            vectors.flush()
            command = [sys.executable, "-m", "cse", "mine", "--vectors", str(folder / "v.npy")]
            command += ["--data", str(folder / "pairs.parquet"), "--columns", "anchor"]
            command += ["--shard", f"1/{max(1, count // ANCHORS)}", "--out"]
            for start_of in ("first", "second"):
                run = watch([*command, str(folder / start_of)], {"CSE_CACHE": str(folder / "cache")})
                figures = {"processor_seconds": round(run.processor_after, 1), "peak_anonymous_mb": round(run.peak_mb)}
                found.append({"rows": count, "start": start_of, **figures})
                say("mining", str(found[-1]))
                found.sort(key=lambda run: int(run["rows"]))
                write_json(out, before | {"mining": found, "mining_note": note or before.get("mining_note", "")})
    return found


def _known(out: Path) -> dict[str, Any]:
    """What a file of results has already."""
    known: dict[str, Any] = read_json(out) if out.exists() else {"runs": [], "note": ""}
    return known


def generate(file: Path, rows: int, seed: int = 0) -> None:
    """Write a parquet file of random pairs, nearly all of them different."""
    import pyarrow
    import pyarrow.compute as compute
    from pyarrow.parquet import ParquetWriter

    words, rng = pyarrow.array(WORDS), np.random.default_rng(seed)
    schema = pyarrow.schema([("anchor", pyarrow.string()), ("positive", pyarrow.string())])
    with ParquetWriter(file, schema) as writer:
        for start in range(0, rows, BLOCK):
            size = min(BLOCK, rows - start)
            drawn = [
                [words.take(pyarrow.array(rng.integers(0, len(WORDS), size))) for _ in range(LENGTH)] for _ in "ab"
            ]
            texts = [compute.binary_join_element_wise(*columns, " ") for columns in drawn]
            writer.write_table(pyarrow.table(texts, schema=schema))


def save_backbone(folder: Path, sizes: Mapping[str, int] = SMALL) -> None:
    """Write a BERT of these sizes with random weights, with a word-level tokenizer, which is fast."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    BertModel(BertConfig(vocab_size=len(vocabulary), **sizes)).save_pretrained(folder)


def _train(folder: Path, name: str, processes: int) -> dict[str, float]:
    recipe = {
        "data": {"class_path": "cse.data.Pairs", "init_args": {"path": str(folder / "pairs.parquet")}},
        "collator": {"class_path": "cse.data.TextViews", "init_args": {"max_length": 32}},
        "encoder": {"class_path": "cse.encoder.Encoder", "init_args": {"backbone": str(folder / "backbone")}},
        "objective": {"class_path": "cse.objectives.simcse.SimCSE"},
        "trainer": {"batch_size": 64, "max_steps": 4, "device": "cpu"},
    }
    (folder / "memory.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    launch = ["torch.distributed.run", f"--nproc-per-node={processes}", "--standalone", "-m"] if processes > 1 else []
    command = [sys.executable, "-m", *launch, "cse", "train", str(folder / "memory.yaml"), f"--run-dir={folder / name}"]
    found = watch(command, {"CSE_CACHE": str(folder / "cache")})
    return {
        "seconds_to_first_step": round(found.seconds_to_first_step, 1),
        "processor_seconds": round(found.processor_to_first_step, 1),
        "peak_anonymous_mb": round(found.peak_mb),
    }


class Watched(NamedTuple):
    """What a run took."""

    seconds_to_first_step: float  # elapsed seconds since the start of the command; 0 if it does not train
    processor_to_first_step: float  # processor seconds until then, over all processes
    processor_after: float  # processor seconds from then to the end, over all processes
    peak_mb: float  # the largest resident memory of a process that is not backed by a file (RssAnon)


def watch(command: Sequence[str], environment: Mapping[str, str] = MappingProxyType({})) -> Watched:
    """Run a command, and measure it.

    Raises:
        RuntimeError: The run failed.
    """
    began, peak, started, first, last = time.monotonic(), 0.0, 0.0, 0.0, 0.0
    process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True)
    lines: list[str] = []

    def read() -> None:
        nonlocal started, first
        for line in process.stdout or ():
            lines.append(line)
            if line.startswith("step     0") and not started:
                started, first = time.monotonic() - began, _processor_seconds(process.pid)

    reader = Thread(target=read)
    reader.start()
    while process.poll() is None:
        peak = max([peak, *_anonymous(process.pid)])
        with suppress(psutil.Error):  # it has just ended
            last = _processor_seconds(process.pid)
        time.sleep(EVERY)
    reader.join()
    if process.returncode:
        raise RuntimeError(f"the run failed:\n{''.join(lines[-20:])}")
    return Watched(started, first, last - first, peak)


def _processor_seconds(pid: int) -> float:
    """The seconds that a process and its descendants have computed, with those that have ended."""
    parent = psutil.Process(pid)
    times = [each.cpu_times() for each in (parent, *parent.children(recursive=True))]
    return float(sum(t.user + t.system + t.children_user + t.children_system for t in times))


def _anonymous(pid: int) -> Iterator[float]:
    """RssAnon of a process and of each of its descendants, in MB."""
    try:
        parent = psutil.Process(pid)
        for each in (parent, *parent.children(recursive=True)):
            status = Path(f"/proc/{each.pid}/status").read_text(encoding="utf-8")
            yield next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("RssAnon")), 0.0)
    except (psutil.Error, OSError):
        return
