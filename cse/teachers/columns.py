"""Write once what teachers say of rows, as columns of a file that every data class reads: the work of `cse teach`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Sized
from dataclasses import dataclass
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cse.console import progress, quiet
from cse.data.datasets import Dataset, open_rows
from cse.data.tools.writing import UNITS, Record, check_out, names_of, records, write_manifest, write_rows
from cse.encoder.checkpoint.identity import model_hash
from cse.encoder.checkpoint.source import fetch
from cse.encoder.device import Device, Precision, choose, inference, resolved
from cse.encoder.job import resumable
from cse.encoder.model import Encoder
from cse.encoder.poolers import PoolerName
from cse.encoder.prompts import choose_prompt
from cse.encoder.vectors import unit
from cse.errors import UserError
from cse.files import name_of
from cse.teachers.cross_encoder import is_cross_encoder, load_cross_encoder

ROWS = 2_048  # rows that are judged and saved at a time
BATCH = 64  # pairs that a cross-encoder reads at once
MADE_BY = "cse teach"

Texts = Sequence[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Judge:
    """A model that gives each row numbers.

    Attributes:
        name: The name that was given.
        gives: The kind of its numbers.
        sha256: The hash of the model.
        width: The numbers of a row with as many texts as any has.
        ask: The numbers of each row; those of texts that it lacks are missing at the end.
    """

    name: str
    gives: str
    sha256: str
    width: int
    ask: Callable[[Texts], list[NDArray[np.float32]]]


def of_cross_encoder(name: str, folder: Path, device: str, precision: Precision, texts: int) -> Judge:
    """The logits that a cross-encoder gives the anchor with each other text of its row, before any activation."""
    model = load_cross_encoder(name, folder, option="--model", fix="give a cross-encoder, or an encoder").to(device)
    each = int(model.num_labels)
    if texts < 2:
        raise UserError(
            f"--model {name} is a cross-encoder, which reads two texts, and rows have one\n"
            "fix: give rows of pairs or triplets, or an encoder"
        )
    if texts > 2 and each > 1:
        raise UserError(
            f"--model {name} has {each} logits of a pair, and rows have {texts} texts\n"
            "fix: give pairs, or a reranker, which has one score"
        )

    def ask(rows: Texts) -> list[NDArray[np.float32]]:
        pairs = [(row[0], other) for row in rows for other in row[1:]]
        with inference(model, precision, torch.device(model.device)):
            options = {"batch_size": BATCH, "show_progress_bar": False, "convert_to_numpy": True}
            found = model.predict(pairs, activation_fn=torch.nn.Identity(), **options)
        flat = np.asarray(found, dtype=np.float32).reshape(len(pairs), each)
        ends = np.cumsum([len(row) - 1 for row in rows])[:-1]
        return [part.ravel() for part in np.split(flat, ends)]

    return Judge(name, "logits", model_hash(folder), (texts - 1) * each, ask)


def of_encoder(name: str, encoder: Encoder, precision: Precision, prompt: str, texts: int, *, whole: bool) -> Judge:
    """The cosines that an encoder gives the anchor with each other text of its row; or the `whole` unit vectors."""

    def ask(rows: Texts) -> list[NDArray[np.float32]]:
        every = list(dict.fromkeys(chain.from_iterable(rows)))  # a text is encoded once
        place = {text: i for i, text in enumerate(every)}
        vectors = unit(encoder.encode(every, precision=precision, prompt=prompt))
        each = (vectors[[place[text] for text in row]] for row in rows)  # (V, D) of a row
        return [own.ravel() if whole else own[1:] @ own[0] for own in each]

    gives, width = ("vectors", texts * encoder.dim) if whole else ("cosines", texts - 1)
    return Judge(name, gives, model_hash(encoder), width, ask)


def teach(
    models: Sequence[str | PathLike[str]] | str | PathLike[str],
    rows: str | Path | Sized | Dataset,
    out: str | Path,
    *,
    columns: Sequence[str] | None = None,
    limit: int | None = None,
    vectors: bool = False,
    prompt: str | None = None,
    pooler: PoolerName | None = None,
    device: Device = "auto",
    precision: Precision = "auto",
) -> Dataset:
    """Write rows with what models say of them. After a kill or Ctrl-C, the same call resumes.

    A cross-encoder gives the logits of the anchor with each other text, and an encoder the cosines of the same pairs,
    or its vectors. One model fills the column `teacher`, and several fill `teacher_1`, `teacher_2` and so on; a column
    holds a number, or a list of numbers where a row has several.

    Args:
        models: Cross-encoders and encoders: folders, `asset:NAME`, Hub ids or runs; several give teacher_1, teacher_2
            and so on.
        rows: Texts, pairs or triplets: in memory, as a path, or as a data set.
        out: A .parquet or .jsonl file; its manifest, a .json file, is written beside it.
        columns: Columns of texts. None: recognized by their names.
        limit: Number of rows to read. None: all.
        vectors: Write vectors of encoders, not cosines; rows of one text get them.
        prompt: Prompt of encoders before every text. None: their default prompt.
        pooler: See `Encoder`.
        device: See `cse.encoder.device`.
        precision: See `Encoder.encode`; also of cross-encoders.

    Returns:
        The rows with the models' numbers, to train on.

    Raises:
        UserError: Rows or a model cannot be loaded, a model does not fit the rows or gives a number that is not finite,
            a file cannot be written, or there is an unfinished file that was made from something else.
    """
    quiet()
    data = rows if isinstance(rows, Dataset) else open_rows(rows, columns=columns, limit=limit)
    options: dict[str, Any] = {"device": device, "precision": precision, "prompt": prompt, "pooler": pooler}
    manifest = teach_rows(models, data, Path(out), vectors=vectors, **options)
    return open_rows(
        out,
        kind=UNITS[data.unit],
        weight_column="weight" if "weight" in data.value_names else None,
        label_column="label" if data.label_names else None,
        teacher_columns=manifest["settings"]["columns"],
    )


def teach_rows(
    models: Sequence[str | PathLike[str]] | str | PathLike[str],
    data: Dataset,
    out: Path,
    *,
    vectors: bool = False,
    prompt: str | None = None,
    pooler: PoolerName | None = None,
    device: Device = "auto",
    precision: Precision = "auto",
) -> dict[str, Any]:
    """Do what `teach` does with rows that are open; returns the manifest."""
    asked = [name_of(m) for m in ([models] if isinstance(models, str | PathLike) else models)]
    check_out(out, [data.path])
    widest = max(len(row) for block in data.blocks() for row in block)
    if "teacher" in data.value_names:
        raise UserError(f"{data.name} has numbers of a teacher already\nfix: open the rows without teacher_columns")
    if len(set(asked)) < max(1, len(asked)):
        raise UserError(f"--model is {' '.join(asked) or 'empty'}\nfix: give one model or more, each once")
    place = choose(device)
    judges = [_judge(name, widest, vectors, place, precision, prompt, pooler) for name in asked]
    if data.ragged and any(judge.gives == "vectors" for judge in judges):
        raise UserError(
            f"{data.name} has rows of unequal numbers of texts, whose vectors do not fit one column\n"
            "fix: give rows with as many negatives, or leave out --vectors"
        )
    widths = [judge.width for judge in judges]
    made_from = {
        "texts": data.hash,
        "checkpoint": " ".join(judge.sha256 for judge in judges),
        "model": " ".join(f"{judge.gives} of {judge.name}" for judge in judges),
        "precision": resolved(precision, torch.device(place)),
        "prompt": prompt,
        "device": place,
        "torch": torch.__version__,
    }
    names = ["teacher"] if len(judges) == 1 else [f"teacher_{i}" for i in range(1, len(judges) + 1)]
    with resumable(out, (len(data), sum(widths)), made_from) as written, progress("rows", len(data)) as advance:
        for start in range(written.done, len(data), ROWS):
            block = [example.texts for example in data[start : start + ROWS]]
            written.append(np.concatenate([_numbers(judge, block) for judge in judges], 1))
            advance(written.done)

        def convert(source: Path, target: Path) -> None:
            taught = _taught(data, np.load(source, mmap_mode="r"), names, widths)
            write_rows(target, [*names_of([data]), *names], taught, suffix=out.suffix)

        written.finish(convert)
    about = [{"name": j.name, "sha256": j.sha256, "gives": j.gives, "numbers": j.width} for j in judges]
    settings = {"models": about, "precision": made_from["precision"], "prompt": prompt, "columns": names}
    return write_manifest(out, MADE_BY, [data], settings, {"written": len(data)}, [out])


def _judge(
    name: str,
    texts: int,
    vectors: bool,
    device: str,
    precision: Precision,
    prompt: str | None,
    pooler: PoolerName | None,
) -> Judge:
    folder = fetch(name, option="--model")
    if is_cross_encoder(folder):
        return of_cross_encoder(name, folder, device, precision, texts)
    encoder = Encoder.load(name, pooler=pooler).to(device)
    before = choose_prompt(encoder.prompts, encoder.default_prompt_name, prompt, option="--prompt")
    return of_encoder(name, encoder, precision, before, texts, whole=vectors or texts == 1)


def _numbers(judge: Judge, rows: Texts) -> NDArray[np.float32]:
    """(n, C) the numbers of rows; NaN where a row lacks a text."""
    found = np.full((len(rows), judge.width), np.nan, dtype=np.float32)
    for row, numbers in zip(found, judge.ask(rows), strict=True):
        if not np.isfinite(numbers).all():
            raise UserError(f"--model {judge.name} gives {numbers[~np.isfinite(numbers)][0]}\nfix: give another model")
        row[: len(numbers)] = numbers
    return found


def _taught(
    data: Dataset, numbers: NDArray[np.float32], names: Sequence[str], widths: Sequence[int]
) -> Iterator[Record]:
    """The records of rows with their columns of numbers (n, C); null where a row lacks a text."""
    ends = np.cumsum(widths).tolist()
    for record, row in zip(records(data), numbers, strict=True):
        values = [None if np.isnan(value) else value for value in row.tolist()]
        for name, end, width in zip(names, ends, widths, strict=True):
            record[name] = values[end - width : end] if width > 1 else values[end - 1]
        yield record
