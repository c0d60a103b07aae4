"""Clusters rows by the vectors of their anchors, and writes the cluster of each as a label."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cse.console import progress, quiet
from cse.data.datasets import Dataset, open_rows
from cse.data.tools.writing import UNITS, Record, check_out, names_of, records, write_manifest, write_rows
from cse.encoder.checkpoint.identity import origin
from cse.encoder.device import Device, Precision, choose, resolved
from cse.encoder.job import fill, resumable
from cse.encoder.model import Encoder
from cse.encoder.prompts import choose_prompt
from cse.encoder.texts import Windows
from cse.encoder.vectors import unit
from cse.errors import UserError, require_at_least
from cse.files import name_of

BLOCK = 8_192  # rows that are encoded and saved at a time
BATCH = 8_192  # rows that k-means reads at a time
STARTS = 3  # of k-means, of which the best counts
LABEL = "label"


def cluster(
    model: str | PathLike[str],
    rows: str | Path | Sized | Dataset,
    out: str | Path,
    *,
    clusters: int,
    columns: Sequence[str] | None = None,
    limit: int | None = None,
    prompt: str | None = None,
    device: Device = "auto",
    precision: Precision = "auto",
    seed: int = 42,
) -> Dataset:
    """Write rows with the number of their cluster in the column `label`, in place of a label that they have.

    Mini-batch k-means on the unit vectors of the anchors (scikit-learn's). `cse.ClusterBatches` then draws every batch
    from one cluster, so that in-batch negatives are hard; more of them are false, too. After a kill or Ctrl-C, the same
    call resumes after the rows that are encoded.

    Args:
        model: A folder, `asset:NAME`, Hub id or run, whose vectors are clustered.
        rows: Texts, pairs or triplets: in memory, as a path, or as a data set.
        out: A .parquet or .jsonl file; its manifest, a .json file, is written beside it.
        clusters: Number of clusters, from 2 to the number of rows.
        columns: Columns of texts. None: recognized by their names.
        limit: Number of rows to read. None: all.
        prompt: See `Encoder.encode`.
        device: See `cse.encoder.device`.
        precision: See `Encoder.encode`.
        seed: Seed of k-means.

    Returns:
        The rows with their labels. The manifest counts the rows of the smallest and of the largest cluster.

    Raises:
        UserError: An argument is out of range, the model cannot be loaded, the rows cannot have a label, a file cannot
            be written, or there is an unfinished file that was made from something else.
    """
    quiet()
    out, name = Path(out), name_of(model)
    data = rows if isinstance(rows, Dataset) else open_rows(rows, columns=columns, limit=limit)
    check_out(out, [data.path])
    require_at_least(2, "cluster", clusters=clusters)
    if clusters > len(data):
        raise UserError(f"cluster.clusters is {clusters}, and there are {len(data)} rows\nfix: give fewer clusters")
    if data.unit == "scored pairs":
        raise UserError(f"{data.name} has scored pairs, which have no label\nfix: read them as --class Pairs")
    encoder = Encoder.load(name).to(choose(device))
    before = choose_prompt(encoder.prompts, encoder.default_prompt_name, prompt, option="--prompt")
    computed: Precision = resolved(precision, encoder.device)
    made_from = origin(encoder, texts=data.hash, precision=computed, prompt=before)
    names = [*(name for name in names_of([data]) if name != LABEL), LABEL]
    sizes = np.zeros(clusters, dtype=np.int64)

    def read(start: int) -> Windows:
        return encoder.read([example.texts[0] for example in data[start : start + BLOCK]], prompt=before)

    with resumable(out, (len(data), encoder.dim), made_from) as written, progress("rows", len(data)) as advance:
        blocks = range(written.done, len(data), BLOCK)
        fill(written, blocks, read, lambda read: unit(encoder.encode_read(read, precision=computed)), advance)

        def convert(source: Path, target: Path) -> None:
            labels = k_means(np.load(source, mmap_mode="r"), clusters, seed)
            sizes[:] = np.bincount(labels, minlength=clusters)
            write_rows(target, names, _labeled(data, labels), suffix=out.suffix)

        written.finish(convert)
    settings = {"model": name, "sha256": made_from["checkpoint"], "clusters": clusters, "seed": seed, "prompt": prompt}
    counts = {"written": len(data), "smallest": int(sizes.min()), "largest": int(sizes.max())}
    write_manifest(out, "cse data cluster", [data], settings, counts, [out])
    return open_rows(
        out, kind=UNITS[data.unit], weight_column="weight" if "weight" in data.value_names else None, label_column=LABEL
    )


def k_means(vectors: NDArray[np.float32], clusters: int, seed: int) -> NDArray[np.int64]:
    """(n,) the cluster of each vector (n, D), which may be memory-mapped."""
    from sklearn.cluster import MiniBatchKMeans

    model = MiniBatchKMeans(clusters, batch_size=BATCH, init="k-means++", n_init=STARTS, random_state=seed)
    model.fit(vectors)
    parts = [model.predict(vectors[start : start + BATCH]) for start in range(0, len(vectors), BATCH)]
    return np.concatenate(parts).astype(np.int64)


def _labeled(data: Dataset, labels: NDArray[np.int64]) -> Iterator[Record]:
    for record, label in zip(records(data), labels.tolist(), strict=True):
        yield {**record, LABEL: str(label)}
