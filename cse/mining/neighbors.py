"""Search for the nearest rows of a pool: exact, or with faiss, whose work for an anchor need not grow with the pool.

Vectors have unit length; the pool may be on disk.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from cse.console import say
from cse.data.reading.store import mark
from cse.encoder.vectors import release
from cse.errors import UserError, require_package
from cse.files import DAMAGED, atomic_file, read_shaped, write_json, writing_cache
from cse.seeding import python_rng

EXACT, AUTO = "exact", "auto"
BLOCK = 16_384  # rows of the pool that are compared at once, so that a search needs memory for M x BLOCK numbers
STRIP = 64  # candidates whose vectors are fetched at once, for the same reason
SMALL = 200_000  # rows of a pool below which `auto` is the exact search
PART = 1 << 20  # rows of an index, which is in memory while it is made
TRAINING = 100_000  # vectors that an index learns from, or more where it has many cells
OF_A_CELL = 64  # vectors that a cell is learned from; faiss asks for 39
MANY = 4096  # cells from which k-means is done in two levels: its work grows with n sqrt(cells), not n cells
ROWS_OF_A_CELL = 128  # with `auto`
WIDER = 4  # candidates of a compressed index for each that is wanted
PROBES = (8, 16, 32, 64, 128, 256, 512, 1024)  # cells to search, of which `auto` takes the first that finds enough
TRIED, NEAREST, RECALL = 256, 10, 0.95  # anchors, their nearest rows, and the share of these to find

Found = tuple[NDArray[np.int64], NDArray[np.float32]]  # rows of the pool, filled up with -1, and cosines


class Neighbors(Protocol):
    """A pool that can be searched."""

    def search(self, anchors: NDArray[np.float32], depth: int, banned: NDArray[np.int64]) -> Found:
        """The `depth` nearest rows (M, depth) of anchors (M, D), nearest first, without the banned ones (M, E)."""
        ...


def cosines(anchor: NDArray[np.float32], pool: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """The cosines (M, C) of anchors (M, D) with their rows (M, C) of the pool (N, D), a few columns at a time."""
    parts = [np.einsum("md,mcd->mc", anchor, pool[rows[:, i : i + STRIP]]) for i in range(0, rows.shape[1], STRIP)]
    return np.concatenate([np.empty((len(rows), 0), dtype=np.float32), *parts], axis=1)


def contained(rows: NDArray[np.int64], banned: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Tell whether each entry of rows (M, C) is among the banned ones (M, E) of its row: (M, C)."""
    return np.array([np.isin(*pair) for pair in zip(rows, banned, strict=True)], dtype=bool).reshape(rows.shape)


class Exact:
    """Compares anchors with every row of the pool, block by block, on a CUDA device or on the CPU."""

    def __init__(self, pool: NDArray[np.float32], device: str = "cpu") -> None:
        import torch

        wanted = torch.device(device)
        self.pool, self.device = pool, wanted if wanted.type == "cuda" else torch.device("cpu")

    def search(self, anchors: NDArray[np.float32], depth: int, banned: NDArray[np.int64]) -> Found:
        """See `Neighbors`."""
        import torch

        queries = torch.from_numpy(np.ascontiguousarray(anchors)).to(self.device)  # (M, D)
        scores = torch.full((len(anchors), depth), -torch.inf, device=self.device)
        rows = torch.full((len(anchors), depth), -1, device=self.device)
        for start in range(0, len(self.pool), BLOCK):
            block = torch.from_numpy(np.array(self.pool[start : start + BLOCK])).to(self.device)
            release(self.pool)
            cosine = queries @ block.T  # (M, BLOCK)
            at, which = np.nonzero((banned >= start) & (banned < start + len(block)))
            cosine[at, banned[at, which] - start] = -torch.inf
            best, place = cosine.topk(min(depth, len(block)), dim=1)
            place = torch.where(best > -torch.inf, place + start, -1)
            scores, order = torch.cat([scores, best], 1).topk(depth, dim=1)
            rows = torch.cat([rows, place], 1).gather(1, order)
        return rows.cpu().numpy(), scores.cpu().numpy()


def best(rows: Sequence[NDArray[np.int64]], scores: Sequence[NDArray[np.float32]], count: int) -> Found:
    """The `count` rows (M, count) with the highest of the scores (M, C), which stand side by side; -1 is none."""
    every, score = np.concatenate(rows, 1), np.concatenate(scores, 1)
    score = np.where(every < 0, -np.inf, score)
    order = np.argsort(-score, axis=1, kind="stable")[:, :count]  # equal ones keep the order of the pool's parts
    return np.take_along_axis(every, order, 1), np.take_along_axis(score, order, 1)


def open_pool(pool: NDArray[np.float32], index: str, *, device: str = "cpu", part: int = PART) -> Neighbors:
    """Open a pool for searches with an index.

    Args:
        pool: Unit vectors (N, D); a memory-mapped array is read block by block.
        index: `exact`, a factory string of faiss, with search parameters after a semicolon, such as `Flat`, `HNSW32` or
            `IVF1024,Flat;nprobe=16`, or `auto`: exact below 200,000 rows, else cells whose number grows with the pool;
            as many of them are searched as find 95 % of the 10 nearest rows of 256 anchors.
        device: The device of an exact search; faiss searches on the CPU.
        part: Largest number of rows of an index of faiss.

    Raises:
        UserError: faiss is not installed, or cannot build the index.
    """
    exact = index == EXACT or (index == AUTO and len(pool) < SMALL)
    return Exact(pool, device) if exact else Faiss(pool, index, part)


class Faiss:
    """Indexes of faiss over inner products, one for each `part` rows of the pool, whose results are merged.

    What an index learns, such as cells and codes, is learned once, from a sample of the whole pool. The indexes of a
    pool on disk lie beside it, memory-mapped, and are made once: a job that was killed continues with the next one, and
    processes and machines that share the disk share the work. Indexes with cells (IVF) are then merged into one, so
    that an anchor looks for its cells once, whatever the number of parts. Where an index compresses vectors, as PQ and
    SQ do, it names `WIDER` times as many candidates as needed, and their exact cosines decide. Banned rows are found
    too and then left out.
    """

    def __init__(self, pool: NDArray[np.float32], index: str, part: int = PART) -> None:
        self._faiss = require_package("faiss", extra="faiss", user=f"--index {index}")
        self.pool, self._part, self._starts = pool, part, range(0, len(pool), part)
        named = f"IVF{2 ** round(np.log2(max(8, len(pool)) / ROWS_OF_A_CELL))}_HNSW32,SQ8" if index == AUTO else index
        self._factory, _, self._parameters = named.partition(";")
        self._compressed = bool(re.search(r"PQ|SQ|LSH", self._factory))
        try:
            folder = self._folder()
            self.indexes = self._in_memory() if folder is None else self._on_disk(folder)
            if index == AUTO:
                self._tune(folder)
            self._set(self._parameters)
        except RuntimeError as error:
            reason = re.sub(r"^Error in .* at \S+:\d+: ", "", str(error).strip().splitlines()[-1])[:200]
            raise UserError(
                f"index {index!r} cannot be built for {len(pool):,} vectors of {pool.shape[1]} dimensions: {reason}\n"
                "fix: give auto, exact, Flat, HNSW32, or IVF1024,Flat;nprobe=16 with fewer cells than vectors"
            ) from error

    def search(self, anchors: NDArray[np.float32], depth: int, banned: NDArray[np.int64]) -> Found:
        """See `Neighbors`."""
        queries, wanted = np.ascontiguousarray(anchors), min(depth + banned.shape[1], len(self.pool))
        named = min(WIDER * wanted, len(self.pool)) if self._compressed else wanted
        rows, scores = np.empty((len(queries), 0), dtype=np.int64), np.empty((len(queries), 0), dtype=np.float32)
        for start, index in zip(self._starts, self.indexes, strict=False):
            near, place = index.search(queries, min(named, index.ntotal))  # (M, named)
            place = np.where((place < 0) | (self._cells_of(index) is not None), place, place + start)
            rows, scores = best([rows, place], [scores, near], named)
        if self._compressed:
            exact = cosines(queries, self.pool, np.maximum(rows, 0))  # (M, named)
            rows, scores = best([rows], [exact], wanted)
        out = contained(rows, banned) | (rows < 0)
        order = np.argsort(out, axis=1, kind="stable")[:, :depth]  # first the rows that are not banned, nearest first
        gone = np.take_along_axis(out, order, 1)
        rows = np.where(gone, -1, np.take_along_axis(rows, order, 1))
        scores = np.where(gone, -np.inf, np.take_along_axis(scores, order, 1)).astype(np.float32)
        missing = ((0, 0), (0, depth - rows.shape[1]))
        return np.pad(rows, missing, constant_values=-1), np.pad(scores, missing, constant_values=-np.inf)

    def _folder(self) -> Path | None:
        """The folder of the indexes of a pool on disk."""
        file = getattr(self.pool, "filename", None)
        if file is None:
            return None
        made_from = (
            f"{self._factory} {self.pool.shape} {self._part} {self._faiss.__version__} {mark(Path(file))} {file}"
        )
        return Path(f"{file}.{hashlib.sha256(made_from.encode()).hexdigest()[:16]}")

    def _set(self, parameters: str) -> None:
        for each in self.indexes if parameters else ():
            self._faiss.ParameterSpace().set_index_parameters(each, parameters)
            each.search(np.ascontiguousarray(self.pool[:1]), 1)  # which the parameters can make fail

    def _tune(self, folder: Path | None) -> None:
        """Choose how many cells are searched, by what an exact search finds for a sample of the pool."""
        note = folder / "tuned.json" if folder is not None else None
        if note is not None and note.is_file():
            with suppress(*DAMAGED):  # or it is tuned again
                self._parameters = str(read_shaped(note, {"parameters": str})["parameters"])
                return
        own = np.array(python_rng("tune the index").sample(range(len(self.pool)), min(TRIED, len(self.pool))))
        anchors, banned = np.array(self.pool[own]), own[:, None]
        wanted, _ = Exact(self.pool).search(anchors, NEAREST, banned)
        for probes in PROBES:
            self._parameters = f"nprobe={probes},quantizer_efSearch={2 * probes}"
            self._set(self._parameters)
            found, _ = self.search(anchors, NEAREST, banned)
            recall = float(contained(found, wanted).mean())
            if recall >= RECALL:
                break
        say("index", f"{self._factory};{self._parameters}: {recall:.1%} of the {NEAREST} nearest of {len(own)} anchors")
        if note is not None:
            write_json(note, {"parameters": self._parameters, "recall": recall, "nearest": NEAREST})

    def _cells_of(self, index: Any) -> Any:
        """The part of an index that has cells; None if it has none."""
        return self._faiss.try_extract_index_ivf(index)

    def _trained(self) -> Any:
        """An index without vectors."""
        faiss = self._faiss
        index = faiss.index_factory(self.pool.shape[1], self._factory, faiss.METRIC_INNER_PRODUCT)
        if index.is_trained:
            return index
        ivf = self._cells_of(index)
        cells = ivf.nlist if ivf is not None else 0
        sample = np.ascontiguousarray(self.pool[:: max(1, len(self.pool) // max(TRAINING, OF_A_CELL * cells))])
        if cells >= MANY and isinstance(faiss.downcast_index(index), faiss.IndexIVF):
            faiss.downcast_index(ivf.quantizer).add(self._cells(sample, cells))  # faiss then learns the codes alone
        index.train(sample)
        return index

    def _cells(self, sample: NDArray[np.float32], cells: int) -> NDArray[np.float32]:
        """The centers (cells, D) of k-means in two levels: of a sample (S, D), and of each cell of the first level."""

        def kmeans(rows: NDArray[np.float32], count: int) -> Any:
            size = {"min_points_per_centroid": 1, "max_points_per_centroid": 4 * OF_A_CELL}
            means = self._faiss.Kmeans(rows.shape[1], count, niter=10, seed=0, spherical=True, **size)
            means.train(rows)
            return means

        first = kmeans(sample, round(cells**0.5))
        nearest = first.index.search(sample, 1)[1][:, 0]
        sizes = np.bincount(nearest, minlength=first.k)
        share = np.diff(np.round(np.cumsum(np.append(0, sizes)) * (cells / len(sample))).astype(int))  # sums to cells
        groups = np.split(np.argsort(nearest, kind="stable"), np.cumsum(sizes)[:-1])
        parts = [kmeans(sample[rows], int(count)).centroids for rows, count in zip(groups, share, strict=True) if count]
        return np.concatenate(parts)

    def _filled(self, copy: Callable[[], Any], start: int) -> Any:
        """A copy of the index without vectors, with those of a part; where it has cells, they keep their rows."""
        index = copy()
        for first in range(start, end := min(start + self._part, len(self.pool)), BLOCK):
            block = np.ascontiguousarray(self.pool[first : min(first + BLOCK, end)])
            if self._cells_of(index) is None:
                index.add(block)
            else:
                index.add_with_ids(block, np.arange(first, first + len(block)))
            release(self.pool)
        return index

    def _in_memory(self) -> list[Any]:
        copy = partial(self._faiss.clone_index, self._trained())
        return [self._filled(copy, start) for start in self._starts]

    def _on_disk(self, folder: Path) -> list[Any]:
        """The indexes of a folder, each of which is complete or absent; those that are absent are made."""
        trained, merged = folder / "trained", folder / "merged"
        files = [folder / f"{number:05d}" for number in range(len(self._starts))]
        with writing_cache("indexes"):
            if not merged.exists():
                self._make(trained, self._trained, wait=True)
                copy = partial(self._faiss.read_index, str(trained))
                for wait in (False, True):  # first those that nobody else is making
                    for file, start in zip(files, self._starts, strict=True):
                        if not merged.exists():
                            self._make(file, partial(self._filled, copy, start), wait=wait)
                if len(files) > 1 and self._cells_of(copy()) is not None:
                    self._make(merged, partial(self._merge, copy, files), wait=True)
        mapped = self._faiss.IO_FLAG_MMAP
        if merged.exists():
            for file in files:
                file.unlink(missing_ok=True)
            return [self._faiss.read_index(str(merged), self._faiss.IO_FLAG_READ_ONLY)]
        if "IVF" not in self._factory:  # since faiss 1.11, indexes without cells are mapped too, by another flag
            mapped = getattr(self._faiss, "IO_FLAG_MMAP_IFC", mapped)
        return [self._faiss.read_index(str(file), mapped) for file in files]

    def _merge(self, copy: Callable[[], Any], files: list[Path]) -> Any:
        """One index whose cells have the vectors of all parts; its lists are a file of their own, which it maps."""
        from faiss.contrib.ondisk import merge_ondisk

        index, shown = copy(), os.dup(1)
        try:  # the library prints what it does, among the results of the command
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            merge_ondisk(index, [str(file) for file in files], str(files[0].with_name("merged.lists")))
        finally:
            os.dup2(shown, 1)
        return index

    def _make(self, file: Path, make: Callable[[], Any], *, wait: bool) -> None:
        """Write an index if it does not exist; if another process is writing it, wait for that or leave it."""
        file.parent.mkdir(parents=True, exist_ok=True)
        with suppress(Timeout), FileLock(f"{file}.lock", timeout=-1 if wait else 0):
            if not file.exists():
                index = make()
                with atomic_file(file) as scratch:
                    self._faiss.write_index(index, str(scratch))
