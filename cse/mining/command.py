"""Runs `cse mine`: writes hard negatives for rows of text as a file that `Triplets` reads, with a manifest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cse.data.datasets import Dataset, Pairs, Texts, Triplets
from cse.data.memory import label, open_source
from cse.data.rows import Column
from cse.encoder.prompts import choose_prompt
from cse.environment import versions
from cse.errors import UserError
from cse.files import atomic_file, check_writable, sha256_file, write_json
from cse.mining.miners import Miner
from cse.mining.search import Corpus, TeacherRule, mine

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cse.encoder.poolers import PoolerName
    from cse.encoder.precision import Precision

LIBRARIES = ("torch", "transformers", "sentence-transformers", "numpy", "faiss-cpu")
ROWS = 8_192  # rows that are mined and written at a time


@dataclass(frozen=True, slots=True)
class Source:
    """Rows of text (a path or an object in memory), the columns to read, and the number of rows (None: all)."""

    path: str | Path | Sized
    columns: Sequence[str]
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """An encoder, and how it encodes.

    Attributes:
        checkpoint: A folder, `asset:NAME` or Hub id.
        pooler: The pooler of a plain Hugging Face model.
        precision: See `Encoder.encode`.
        prompt: The name of the prompt that is put before anchors. None: the encoder's default prompt, if it has one.
        pool_prompt: The name of the prompt that is put before all other texts. None: the default prompt.
    """

    checkpoint: str
    pooler: PoolerName | None = None
    precision: Precision = "fp32"
    prompt: str | None = None
    pool_prompt: str | None = None


class Encoded(NamedTuple):
    """Unit vectors (T, D) of a corpus's texts, and (Q, D) of its anchors if their prompt is another one."""

    vectors: NDArray[np.float32]
    anchors: NDArray[np.float32] | None
    about: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Judge:
    """A teacher and its rules for dropping candidates; see `cse.mining.search.TeacherRule`."""

    model: Model
    max_similarity: float | None
    below_positive: bool


def mine_file(
    model: Model,
    data: Source,
    out: Path,
    miner: Miner,
    *,
    k: int,
    pool: Source | None = None,
    judge: Judge | None = None,
) -> dict[str, Any]:
    """Mine negatives for every row of `data`, and write the rows with their negatives.

    Args:
        model: The encoder whose vectors the miner compares.
        data: The rows. One column: texts that are their own positives. Two: anchors and positives. More: negatives,
            which stay and are followed by the mined ones.
        out: A .parquet file with columns anchor, positive, negative_1 and so on; null if a row has fewer negatives. The
            manifest, a .json file of the same name, is written beside it.
        miner: The miner that selects the negatives.
        k: Largest number of negatives per row.
        pool: Texts that may become negatives. None: the texts of the data, except anchors with a positive of their own.
        judge: A teacher that drops false negatives.

    Returns:
        The manifest.

    Raises:
        UserError: The data or the model cannot be loaded, or there are fewer than two texts to choose from.
    """
    if k < 1:
        raise UserError(f"--k is {k}\nfix: give an integer >= 1")
    if out.suffix != ".parquet":
        raise UserError(f"--out {out} is not a .parquet file\nfix: give a name that ends in .parquet")
    check_writable(out)
    rows = _rows(data)
    corpus = Corpus(rows, _texts(pool) if pool else None)
    if k >= corpus.size:
        raise UserError(
            f"--k is {k}, but the pool has {corpus.size} texts\nfix: give 1 to {corpus.size - 1}, or more texts"
        )
    encoded = _encode(model, corpus)
    teacher, about_teacher = None, None
    if judge:
        judged = _encode(judge.model, corpus)
        teacher = TeacherRule(judged.vectors, judge.max_similarity, judge.below_positive, judged.anchors)
        about_teacher = {
            "checkpoint": judge.model.checkpoint,
            **judged.about,
            "max_similarity": judge.max_similarity,
            "below_positive": judge.below_positive,
        }
    miner.setup(encoded.vectors[: corpus.size])
    counts: dict[str, int] = {"anchors": len(rows), "pool": corpus.size, "negatives": 0, "rows_without_negatives": 0}
    widest = max(0, max(len(example.texts) for example in rows) - 2) + k
    columns = ["anchor", "positive", *(f"negative_{i}" for i in range(1, widest + 1))]
    with atomic_file(out) as scratch:
        _write(scratch, _mined(rows, corpus, miner, encoded, k, teacher, counts), columns)
    manifest = {
        "counts": counts,
        "k": k,
        "miner": {"class": type(miner).__name__, **{n: v for n, v in vars(miner).items() if n[0] != "_"}},
        "teacher": about_teacher,
        "checkpoint": {"name": model.checkpoint, **encoded.about, "precision": model.precision},
        "data": {"path": label(data.path), "columns": list(data.columns), "sha256": rows.hash, "report": rows.report},
        "pool": {"path": label(pool.path), "columns": list(pool.columns)} if pool else None,
        "out": {"path": out.name, "columns": columns, "sha256": sha256_file(out)},
        "versions": versions(LIBRARIES),
    }
    write_json(out.with_suffix(".json"), manifest)
    return manifest


def _rows(data: Source) -> Dataset:
    if len(data.columns) == 1:
        return Texts(data.path, column=data.columns[0], limit=data.limit)
    reader = Pairs if len(data.columns) == 2 else Triplets
    return reader(data.path, columns=data.columns, limit=data.limit)


def _texts(pool: Source) -> list[str]:
    """The texts in the columns of the pool."""
    rows = open_source(pool.path).read([Column("--pool-columns", column) for column in pool.columns])
    return [cell.strip() for row in rows for cell in row.cells if cell and cell.strip()]


def _encode(model: Model, corpus: Corpus) -> Encoded:
    """The unit vectors of the texts of a corpus, and the hash and the prompts of the encoder."""
    from cse.encoder.cached import cached_vectors
    from cse.encoder.identity import model_hash
    from cse.encoder.model import Encoder

    encoder = Encoder.load(model.checkpoint, pooler=model.pooler)
    options = {"--prompt": model.prompt, "--pool-prompt": model.pool_prompt}
    before, prompt = (
        choose_prompt(encoder.prompts, encoder.default_prompt_name, name, option=option)
        for option, name in options.items()
    )
    digest = model_hash(encoder)
    vectors = cached_vectors(encoder, digest, corpus.texts, model.precision, prompt)
    anchors = None
    if before != prompt:
        anchors = cached_vectors(encoder, digest, corpus.anchor_texts, model.precision, before)
    return Encoded(vectors, anchors, {"sha256": digest, "prompt": before, "pool_prompt": prompt})


def _mined(
    rows: Dataset,
    corpus: Corpus,
    miner: Miner,
    encoded: Encoded,
    k: int,
    teacher: TeacherRule | None,
    counts: dict[str, int],
) -> Iterator[list[tuple[str, ...]]]:
    """The rows with their negatives, block by block; the counts of each block are added to `counts`."""
    for start in range(0, len(rows), ROWS):
        block = range(start, min(start + ROWS, len(rows)))
        found = mine(miner, corpus, encoded.vectors, k, block, teacher, encoded.anchors)
        done = []
        for row, chosen in zip(block, found.rows.tolist(), strict=True):
            texts = rows[row].texts if len(rows[row].texts) > 1 else rows[row].texts * 2
            done.append((*texts, *(corpus.texts[i] for i in chosen if i >= 0)))
        for name, count in found.counts.items():
            counts[name] = counts.get(name, 0) + count
        counts["negatives"] += int((found.rows >= 0).sum())
        counts["rows_without_negatives"] += int((found.rows < 0).all(1).sum())
        yield done


def _write(file: Path, blocks: Iterator[list[tuple[str, ...]]], names: Sequence[str]) -> None:
    """Write blocks of rows as parquet; short rows are filled up with nulls."""
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    schema = pyarrow.schema([(name, pyarrow.string()) for name in names])
    with ParquetWriter(file, schema) as writer:
        for block in blocks:
            filled = [row + (None,) * (len(names) - len(row)) for row in block]
            columns = [list(column) for column in zip(*filled, strict=True)]
            writer.write_table(pyarrow.table(columns, schema=schema))
