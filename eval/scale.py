"""`python -m eval scale`: a million texts encoded in shards by processes of which one is killed, and searched."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped, unused-ignore]
import torch

from cse.console import say
from cse.encoder.job import partial_files
from cse.encoder.model import Encoder
from cse.encoder.vectors import release
from cse.files import read_json, write_json
from cse.inference.shards import VectorsOnDisk, missing, open_vectors, read_index
from cse.mining.neighbors import open_pool
from eval.memory import WORDS

MODEL = "asset:mini"
SHORTEST, LONGEST = 4, 8  # words of a text
ANCHORS = 1_000  # that are searched for
DEPTHS = (10, 50)  # neighbors of which the recall is counted
KILL_AT = 0.4  # of the rows
BLOCK = 65_536  # rows that are compared or hashed at once


def measure(rows: int, shards: int, processes: int, indexes: list[str], out: Path, note: str = "") -> dict[str, Any]:
    """Encode generated texts at once and in shards, kill a process and start again, compare, and search.

    Processes have one thread each; `shards` is the number of those of the vectors, and of indexes of the search.

    Returns:
        What was measured. Seconds of a processor are summed over processes, those of a killed one included.
    """
    about = {"model": MODEL, "rows": rows, "shards": shards, "processes": processes, "note": note}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generate(folder / "texts.txt", rows)
        words = [
            "encode",
            MODEL,
            "texts.txt",
            "--normalize",
            "--save-every",
            str(max(1, min(32_768, rows // shards // 4))),
        ]
        found: dict[str, Any] = {"about": about, "encode": _encode(folder, words, rows, shards, processes)}
        say("encode", str(found["encode"]))
        found["tokens"] = _tokenize(folder / "texts.txt")
        found["search"] = _search(folder, rows, shards, indexes)
    write_json(out, found)
    return found


def generate(file: Path, rows: int, seed: int = 0) -> None:
    """Write texts of random words, nearly all of them different."""
    rng = np.random.default_rng(seed)
    with file.open("w", encoding="utf-8") as stream:
        for start in range(0, rows, BLOCK):
            count = min(BLOCK, rows - start)
            drawn = rng.integers(0, len(WORDS), (count, LONGEST)).tolist()
            lengths = rng.integers(SHORTEST, LONGEST + 1, count).tolist()
            texts = (" ".join(WORDS[i] for i in row[:n]) for row, n in zip(drawn, lengths, strict=True))
            stream.writelines(f"{text}\n" for text in texts)


def _encode(folder: Path, words: list[str], rows: int, shards: int, processes: int) -> dict[str, Any]:
    whole = [*words, "--out", "one.npy"]
    parts = [*words, "--out", "parts", "--shards", str(shards), "--processes", str(processes)]
    found: dict[str, Any] = {"commands": [f"cse {' '.join(each)}" for each in (whole, parts, parts)]}
    found["one process"] = _run(folder, whole)
    found["killed"] = _run(folder, parts, kill_at=round(KILL_AT * rows))
    found["killed"]["rows_kept"] = _kept(folder / "parts")
    found["killed"]["shards_kept"] = shards - len(missing(folder / "parts"))
    found["started again"] = _run(folder, parts)
    one, every = open_vectors(folder / "one.npy"), open_vectors(folder / "parts")
    found["megabytes"] = round(one.size * one.dtype.itemsize / 1e6)
    found["dimensions"] = one.shape[1]
    found["sha256"] = {"one process": _sha256(one), "shards": _sha256(every)}
    found["equal"] = found["sha256"]["one process"] == found["sha256"]["shards"]
    return found


def _tokenize(texts: Path) -> dict[str, float]:
    """How fast one core makes tokens of the texts, which bounds what it can give to a GPU."""
    with texts.open(encoding="utf-8") as stream:
        some = [line.strip() for line in islice(stream, BLOCK)]
    encoder = Encoder.load(MODEL)
    encoder.tokenize(some[:64])
    began = time.process_time()
    tokens = sum(map(len, encoder.tokenize(some)))
    return {"texts_per_s": round(len(some) / (time.process_time() - began)), "per_text": round(tokens / len(some), 1)}


def _run(folder: Path, words: list[str], kill_at: int | None = None) -> dict[str, float]:
    """Run a command on one thread a process, or until its processes have some rows, when one of them is killed."""
    began = time.monotonic()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path])}
    command = [sys.executable, "-m", "cse", *words]
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    while kill_at is not None and process.poll() is None:
        if _kept(folder / "parts") >= kill_at:
            psutil.Process(process.pid).children()[-1].send_signal(signal.SIGKILL)
            break
        time.sleep(0.05)
    _, status, usage = os.wait4(process.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code and kill_at is None:
        raise RuntimeError(f"{' '.join(words)} ended with {code}")
    seconds = {"seconds": round(time.monotonic() - began, 1), "processor_seconds": usage.ru_utime + usage.ru_stime}
    return {k: round(v, 1) for k, v in seconds.items()} | {"exit": code, "peak_mb": round(usage.ru_maxrss / 1024)}


def _kept(folder: Path) -> int:
    """The number of complete rows in a folder of shards, finished or not."""
    done = 0
    for shard in (read_index(folder) or {"shards": []})["shards"]:
        note = partial_files(folder / shard["file"])[1]
        if (folder / shard["file"]).exists():
            done += int(shard["rows"])
        elif note.exists():
            with suppress(OSError):  # the shard was finished in this moment
                done += int(read_json(note)["rows"])
    return done


def _sha256(vectors: VectorsOnDisk) -> str:
    digest = hashlib.sha256()
    for start in range(0, len(vectors), BLOCK):
        digest.update(np.ascontiguousarray(vectors[start : start + BLOCK]).data)
        release(vectors)
    return digest.hexdigest()


def _search(folder: Path, rows: int, shards: int, indexes: list[str]) -> list[dict[str, Any]]:
    """Seconds and recall of searches for anchors at equal distances, without the anchors themselves."""
    torch.set_num_threads(1)
    pool = np.load(folder / "one.npy", mmap_mode="r")
    own = np.linspace(0, rows - 1, min(ANCHORS, rows)).astype(np.int64)
    found: list[dict[str, Any]] = []
    exact: np.ndarray[Any, Any] | None = None
    for index in ("exact", *indexes):
        began = time.process_time()
        near = open_pool(pool, index, part=-(-rows // shards))
        made = time.process_time() - began
        place, _ = near.search(pool[own], max(DEPTHS), own[:, None])
        exact = place if exact is None else exact
        seconds = {"build_seconds": round(made, 1), "search_seconds": round(time.process_time() - began - made, 1)}
        files = [file for one in folder.glob("one.npy.*") for file in one.iterdir() if file.suffix != ".lock"]
        recall = {f"recall@{k}": round(_recall(place[:, :k], exact[:, :k]), 4) for k in DEPTHS}
        size = sum(file.stat().st_size for file in files) / 1e6
        found.append({"index": index, "anchors": len(own), **seconds, "megabytes": round(size, 1), **recall})
        say("search", str(found[-1]))
        for file in files:
            file.unlink()
    return found


def _recall(found: np.ndarray[Any, Any], exact: np.ndarray[Any, Any]) -> float:
    """The share of the exact neighbors that were found."""
    shared = [len(set(a) & set(b)) for a, b in zip(found.tolist(), exact.tolist(), strict=True)]
    return sum(shared) / exact.size
