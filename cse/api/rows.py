"""`cse.cluster`: rows with the number of their cluster, by the vectors of a run or any other checkpoint."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING

from cse.api.models import Model, name_of

if TYPE_CHECKING:
    from cse.data.datasets import Dataset
    from cse.encoder.device import Device
    from cse.encoder.precision import Precision


def cluster(
    model: Model,
    rows: str | Path | Sized | Dataset,
    out: str | Path,
    *,
    clusters: int,
    columns: Sequence[str] | None = None,
    limit: int | None = None,
    seed: int = 42,
    device: Device = "auto",
    precision: Precision = "auto",
    prompt: str | None = None,
) -> Dataset:
    """Write rows with the number of their cluster as label, as `cse data cluster` does.

    After a kill or Ctrl-C, the same call resumes.

    Args:
        model: A run, or a folder, `asset:NAME` or Hub id, whose vectors of the anchors are clustered.
        rows: Texts, pairs or triplets: in memory, as a path, or as a data set.
        out: A .parquet or .jsonl file; its manifest is written beside it.
        clusters: Number of clusters.
        columns: Names of the columns of texts. None: recognized by their names.
        limit: Number of rows to read. None: all.
        seed: Seed of k-means.
        device: The device to run on: auto, cpu, cuda or mps; `auto` is the accelerator of this machine, or the CPU.
        precision: fp32, bf16, or auto: bf16 where the hardware computes it natively.
        prompt: The name of the model's prompt that is put before every text. None: its default prompt, if it has one.

    Returns:
        The rows with their labels, to train on with `cse.ClusterBatches()`.

    Raises:
        UserError: Rows or model cannot be loaded, or an argument is out of range.
    """
    from cse.console import quiet
    from cse.data.datasets import Dataset
    from cse.data.tools.opening import open_rows
    from cse.data.tools.writing import UNITS
    from cse.inference.cluster import LABEL, cluster_rows

    quiet()
    data = rows if isinstance(rows, Dataset) else open_rows(rows, columns=columns, limit=limit)
    cluster_rows(
        data,
        name_of(model),
        Path(out),
        clusters=clusters,
        seed=seed,
        device=device,
        precision=precision,
        prompt=prompt,
    )
    return open_rows(out, kind=UNITS[data.unit], weight_column="weight" if data.weighted else None, label_column=LABEL)
