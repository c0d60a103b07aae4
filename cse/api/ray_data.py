"""`cse.encode_dataset`: encoding as a stage of a pipeline of Ray Data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cse.api.models import name_of
from cse.errors import UserError, require_at_least, require_package

if TYPE_CHECKING:
    from cse.api.models import Model
    from cse.encoder.device import Device
    from cse.encoder.precision import Precision


def encode_dataset(
    ds: Any,
    model: Model,
    *,
    column: str = "text",
    into: str = "vector",
    processes: int = 1,
    batch_rows: int = 4096,
    cpus: float = 1,
    gpus: float = 0,
    device: Device = "auto",
    precision: Precision = "auto",
    normalize: bool = False,
    dimensions: int | None = None,
    prompt: str | None = None,
) -> Any:
    """Add the vectors of a column of texts to a data set of Ray Data, by processes that load the model once each.

    Nothing runs before the data set that is returned is read or written, as usual for Ray Data:
    `cse.encode_dataset(ray.data.read_parquet("texts/"), run, processes=8, gpus=1).write_parquet("vectors/")`. The rows
    keep their columns, and Ray Data does not promise their order.

    Args:
        ds: A `ray.data.Dataset`.
        model: A run, or a folder, `asset:NAME` or Hub id, that every machine of the cluster can load.
        column: The column of texts; a missing text is encoded as the empty one.
        into: The column to add, of vectors of float32.
        processes: Number of processes that encode.
        batch_rows: Largest number of rows that a process encodes at a time.
        cpus: Number of cores for each process.
        gpus: Number of GPUs for each process; with 0, a process sees none.
        device: The device to run on: auto, cpu, cuda or mps.
        precision: fp32, bf16, or auto: bf16 where the hardware computes it natively.
        normalize: Whether to scale each vector to length 1.
        dimensions: Number of first dimensions to keep, before scaling; see `Encoder.encode`. None: all.
        prompt: The name of the model's prompt that is put before every text. None: its default prompt, if it has one.

    Returns:
        A `ray.data.Dataset`.

    Raises:
        UserError: Ray is not installed, the column does not exist, `into` does, or a number is out of range.
    """
    data = require_package("ray.data", extra="ray", user="cse.encode_dataset")
    from cse.inference.stage import EncodeBatch

    require_at_least(1, "encode_dataset", processes=processes, batch_rows=batch_rows)
    require_at_least(0, "encode_dataset", cpus=cpus, gpus=gpus)
    if not isinstance(ds, data.Dataset):
        raise UserError(f"ds is a {type(ds).__name__}\nfix: give a data set of Ray Data, such as ray.data.read_parquet")
    names = list(ds.columns() or [])
    if column not in names:
        raise UserError(f"column is {column!r}, and the columns are {', '.join(names)}\nfix: give one of these")
    if into in names:
        raise UserError(f"into is {into!r}, which is a column already\nfix: give another name")
    options: dict[str, Any] = {"model": name_of(model), "column": column, "into": into, "device": device}
    options |= {"precision": precision, "normalize": normalize, "dimensions": dimensions, "prompt": prompt}
    return ds.map_batches(
        EncodeBatch,
        fn_constructor_kwargs=options,
        batch_size=batch_rows,
        batch_format="numpy",
        compute=data.ActorPoolStrategy(size=processes),
        num_cpus=cpus,
        num_gpus=gpus,
    )
