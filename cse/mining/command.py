"""Runs `cse mine`: writes rows of text with mined negatives, or positives too, as a file that `Triplets` reads."""

from __future__ import annotations

import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import chain, islice
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cse import distributed
from cse.console import quiet, say
from cse.data.datasets import Dataset, Texts, Triplets, open_rows
from cse.data.reading.columns import of_texts
from cse.data.reading.memory import label, open_source
from cse.data.reading.rows import Column
from cse.data.reading.sources import named
from cse.data.reading.texts import BLOCK, TextStream
from cse.data.tools.writing import check_out, manifest_of, write_rows
from cse.encoder.job import only_writer
from cse.encoder.prompts import choose_prompt
from cse.environment import versions
from cse.errors import UserError
from cse.files import DAMAGED, check_writable, name_of, read_shaped, sha256_file, write_json
from cse.inference.shards import Shard, claim, identity, require_pieces
from cse.mining.corpus import Corpus
from cse.mining.given import Vectors, given_vectors, require_vectors
from cse.mining.miners import CHUNK, Bands, Beside, Miner, TeacherRule, TopK, check_bands, dealt, set_up
from cse.mining.miners import mine as search_block
from cse.mining.reranker import Reranker

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cse.encoder.device import Device, Precision
    from cse.encoder.poolers import PoolerName


LIBRARIES = ("torch", "transformers", "sentence-transformers", "numpy", "faiss-cpu")
CANDIDATES = 50  # candidates of a row from which a reranker chooses


@dataclass(frozen=True, slots=True)
class Source:
    """Rows of text: a path or an object in memory, the columns to read (None: recognized), and the number of rows."""

    path: str | Path | Sized
    columns: Sequence[int | str] | None = None
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """An encoder, and how it encodes; see `mine` for the prompts of anchors (`prompt`) and of all other texts."""

    checkpoint: str  # a folder, `asset:NAME` or Hub id
    pooler: PoolerName | None = None  # the pooler of a plain Hugging Face model
    device: Device = "auto"
    precision: Precision = "fp32"
    prompt: str | None = None
    pool_prompt: str | None = None


class Encoded(NamedTuple):
    """Unit vectors (T, D) of a corpus's texts, and (Q, D) of its anchors if their prompt is another one."""

    vectors: NDArray[np.float32]
    anchors: NDArray[np.float32] | None
    about: dict[str, Any]


class MinedRow(NamedTuple):
    """The texts of a row, its mined negatives, and a reranker's scores of the positive and of these."""

    texts: tuple[str, ...]
    mined: tuple[str, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Judge:
    """A teacher and its rules for dropping candidates; see `cse.mining.miners.TeacherRule`."""

    model: Model
    max_similarity: float | None
    below_positive: bool


def mine(
    model: str | PathLike[str] | Vectors,
    rows: str | Path | Sized | Dataset,
    *,
    k: int = 1,
    columns: Sequence[str] | None = None,
    limit: int | None = None,
    pool: str | Path | Sized | None = None,
    pool_columns: Sequence[str] | None = None,
    miner: Miner | None = None,
    judge: Judge | None = None,
    reranker: Reranker | None = None,
    scores: bool = False,
    bands: Bands | None = None,
    device: Device = "auto",
    precision: Precision = "auto",
    prompt: str | None = None,
    pool_prompt: str | None = None,
    out: str | Path | None = None,
) -> Triplets:
    """Choose hard negatives for rows of text, and share the work among the processes of a script.

    Args:
        model: A run, or a folder, `asset:NAME` or Hub id, in whose space the miner looks for neighbors; or vectors of
            the rows that lie in a file, `cse.mining.given.Vectors(path)`.
        rows: Rows to mine for: a file, folder, pattern, `asset:NAME` or Hub id; in memory; or a data set.
        k: Largest number of negatives per row.
        columns: One: texts; two: anchor and positive; more: negatives, which are kept. None: recognized by name, or in
            tuples by number.
        limit: Number of rows to mine for. None: all.
        pool: Texts that may become negatives, as a file and so on. None: those of the rows.
        pool_columns: Columns of `pool` if it is a table. None: recognized by name.
        miner: Chooses the negatives. None: `TopK()`, the 50 nearest neighbors.
        judge: A teacher that drops false negatives.
        reranker: A cross-encoder that drops false negatives; see `cse.mining.reranker`.
        scores: Also write the scores of the reranker.
        bands: Positives and easy negatives to choose by rank as well; see `cse.mining.miners.Bands`.
        device: See `cse.encoder.device`.
        precision: See `Encoder.encode`.
        prompt: Prompt of the model before anchors. None: its default prompt.
        pool_prompt: Prompt of the model before all other texts. None: its default prompt.
        out: A .parquet or .jsonl file to write, with its manifest beside it. None: nothing is written.

    Returns:
        The rows with their negatives, to train on: `cse.train("simcse-sup", data=cse.mine(run, rows))`.

    Raises:
        UserError: Rows or model cannot be loaded, or no text is left to choose from.
    """
    from pyarrow.parquet import read_table

    if miner is not None and not isinstance(miner, Miner):
        raise UserError(f"miner is {str(miner)[:60]!r}\nfix: give an object, such as cse.TopK()")
    quiet()
    found, names = _in_memory(rows, columns)
    options: dict[str, Any] = {"device": device, "precision": precision, "prompt": prompt, "pool_prompt": pool_prompt}
    searched = model if isinstance(model, Vectors) else Model(name_of(model), **options)
    with distributed.together(), tempfile.TemporaryDirectory(prefix="cse-mine-") as scratch:
        target = Path(distributed.broadcast(scratch), "mined.parquet") if out is None else Path(out)
        manifest = mine_file(
            searched,
            Source(found, names, limit),
            target,
            miner or TopK(),
            k=k,
            pool=None if pool is None else Source(pool, pool_columns),
            judge=judge,
            reranker=reranker,
            scores=scores,
            bands=bands,
            device=device,
        )
        rows_of = str(target) if out is not None else read_table(target)
        mined = Triplets(rows_of, columns=manifest["out"]["columns"])
        distributed.broadcast(None)  # the folder stays until all processes have read the file
        return mined


def mine_file(
    model: Model | Vectors,
    data: Source,
    out: Path,
    miner: Miner,
    *,
    k: int,
    pool: Source | None = None,
    judge: Judge | None = None,
    reranker: Reranker | None = None,
    scores: bool = False,
    bands: Bands | None = None,
    shards: Sequence[Shard] = (),
    device: Device = "auto",
) -> dict[str, Any]:
    """Mine negatives for every row of `data`, and write the rows with their negatives.

    Inside `cse.distributed.together()`, each process encodes and searches its share, and the first one writes the file
    that a single process would write; see `mine` for the arguments. Rows of one column are texts that are their own
    positives; negatives that rows have stay, and are followed by the mined ones. A reranker reads the first 50
    candidates (or k) that are left, and its scores are positive_score, negative_1_score and so on.

    Without shards, `out` is a .parquet or .jsonl file with columns anchor, positive, negative_1 and so on, null if a
    row has fewer negatives. With shards it is a folder of .parquet files, which have, one after another, the rows of
    that file; those that exist are left as they are.

    Returns:
        The manifest, which is written beside the file; of several shards the last one's, with the counts of all.
    """
    from cse.encoder.device import choose

    if not isinstance(k, int) or k < 1:
        raise UserError(f"--k is {k}\nfix: give an integer >= 1")
    if scores and reranker is None:
        raise UserError("--scores asks for the scores of a reranker, but none is given\nfix: add --reranker MODEL")
    compares_on, bands = choose(device), bands or Bands()
    check_bands(bands, miner, reranker is not None or (judge is not None and judge.below_positive))
    _check_paths(model, data, pool, out, shards)
    rows = _rows(data)
    blocks = -(-len(rows) // CHUNK)
    require_pieces(blocks, shards, f"blocks of {CHUNK} rows", f"give {blocks} shards or fewer")
    if rows.unit != "sentences" and (bands.positives or isinstance(model, Vectors)):
        what = "--positives chooses those of single texts" if bands.positives else "--vectors has one vector per row"
        raise UserError(f"{what}, but {rows.name} has {rows.unit}\nfix: name one column of texts: --columns NAME")
    corpus = Corpus(rows, _texts(pool) if pool else None)
    if k >= corpus.size:
        raise UserError(
            f"--k is {k}, but the pool has {corpus.size} texts\nfix: give 1 to {corpus.size - 1}, or more texts"
        )
    if isinstance(miner, TopK) and miner.first >= corpus.size:
        raise UserError(
            f"--ranks begins at {miner.first}, but the pool has {corpus.size} texts\nfix: begin below that number"
        )
    if isinstance(miner, TopK) and bands.easy and miner.last + bands.easy >= corpus.size:
        raise UserError(
            f"--easy asks for {bands.easy} texts outside the {miner.last} nearest, but the pool has {corpus.size} "
            "texts\nfix: give a smaller LAST in --ranks, or more texts"
        )
    encoded = _given(model, data, pool, corpus) if isinstance(model, Vectors) else _encode(model, corpus)
    teacher, about_teacher = _teacher(judge, corpus) if judge else (None, None)
    pooled = encoded.vectors[: corpus.size]
    miner.setup(pooled, compares_on)
    beside = set_up(bands, miner, pooled, compares_on)
    longest = max(len(row) for block in rows.blocks() for row in block)
    widest = max(0, longest - 2) + -(-(k + bands.easy) // beside.width)
    columns = ["anchor", "positive", *(f"negative_{i}" for i in range(1, widest + 1))]
    scored = [f"{name}_score" for name in columns[1:]] if scores else []
    settings = {
        "k": k,
        "miner": {"class": type(miner).__name__, **{n: v for n, v in vars(miner).items() if n[0] != "_"}},
        "bands": asdict(bands),
        "teacher": about_teacher,
        "reranker": reranker.about if reranker else None,
        "checkpoint": encoded.about,
        "data": {
            "path": label(data.path),
            "columns": None if data.columns is None else list(data.columns),
            "understood": rows.understood,
            "sha256": rows.hash,
            "report": rows.report,
        },
        "pool": {"path": label(pool.path), "columns": pool.columns and list(pool.columns)} if pool else None,
    }

    def write(file: Path, part: range) -> dict[str, Any]:
        counts = {"anchors": len(part), "pool": corpus.size, "negatives": 0, "rows_without_negatives": 0}
        found = _mined(rows, part, corpus, miner, encoded, k, teacher, reranker, beside, counts)
        records = (_record(row, columns, scored) for block in found for row in block)
        if distributed.rank():
            deque(records, maxlen=0)
            return dict(distributed.broadcast(None))
        write_rows(file, [*columns, *scored], records)
        about = {"path": file.name, "columns": columns, "sha256": sha256_file(file)}
        manifest = {"counts": counts, **settings, "out": about, "versions": versions(LIBRARIES)}
        write_json(manifest_of(file), manifest)
        return dict(distributed.broadcast(manifest))

    if not shards:
        return write(out, range(len(rows)))
    made_from = {"texts": corpus.sha256(), **settings, "columns": [*columns, *scored], "versions": versions(LIBRARIES)}
    return write_shards(out, shards, len(rows), CHUNK, made_from, write)


def _in_memory(rows: Any, columns: Sequence[str] | None) -> tuple[str | Path | Sized, Sequence[str] | None]:
    """Rows as `Source` takes them, and the names of their columns."""
    if not isinstance(rows, Dataset):
        return rows, columns
    width = max(len(example.texts) for example in rows)
    found = [example.texts + (None,) * (width - len(example.texts)) for example in rows]
    names = ["anchor", "positive", *(f"negative_{i}" for i in range(1, width - 1))]
    return found, columns or (["text"] if width == 1 else names)


def _check_paths(model: Model | Vectors, data: Source, pool: Source | None, out: Path, shards: Sequence[Shard]) -> None:
    """Raise unless the output can be written and is not a source, and given vectors can be read."""
    sources = [data.path, *([pool.path] if pool else []), *([model.path] if isinstance(model, Vectors) else [])]
    if shards:
        check_writable(out, kind="folder")
    check_out(out / f"{shards[0].name}.parquet" if shards else out, sources)
    if isinstance(model, Vectors):
        require_vectors(model.path)


def _teacher(judge: Judge, corpus: Corpus) -> tuple[TeacherRule, dict[str, Any]]:
    """The rule of a judge, and what the manifest says of it."""
    judged = _encode(judge.model, corpus)
    about = {"max_similarity": judge.max_similarity, "below_positive": judge.below_positive}
    rule = TeacherRule(judged.vectors, judge.max_similarity, judge.below_positive, judged.anchors)
    return rule, {"checkpoint": judge.model.checkpoint, **judged.about, **about}


def _rows(data: Source) -> Dataset:
    rows = open_rows(data.path, columns=data.columns, limit=data.limit)
    if rows.unit == "scored pairs":
        raise UserError(
            f"{rows.name} has scored pairs ({rows.understood}), and not every pair is an anchor with its positive\n"
            "fix: keep the pairs with a high score, and name the columns: --columns sentence1 sentence2"
        )
    return rows


def _texts(pool: Source) -> TextStream | list[str]:
    """The texts in the columns of the pool."""
    if pool.columns is None:
        with named("--pool"):
            return Texts(pool.path).texts()
    columns, source = [Column("--pool-columns", column) for column in pool.columns], open_source(pool.path)

    def blocks() -> Iterator[list[str]]:
        rows = source.read(columns)
        while block := list(islice(rows, BLOCK)):
            yield [cell.strip() for row in block for cell in row.cells if cell and cell.strip()]

    key = source.key()
    return list(chain.from_iterable(blocks())) if key is None else TextStream(f"{key} {pool.columns}", 0, blocks)


def _encode(model: Model, corpus: Corpus) -> Encoded:
    """The unit vectors of the texts of a corpus, and the hash and the prompts of the encoder."""
    from cse.encoder.checkpoint.identity import model_hash
    from cse.encoder.device import choose
    from cse.encoder.job import cached_vectors
    from cse.encoder.model import Encoder

    encoder = Encoder.load(model.checkpoint, pooler=model.pooler).to(choose(model.device))
    if encoder.similarity == "euclidean" and distributed.rank() == 0:
        say("note", f"{model.checkpoint} compares texts by distance, and mining compares its vectors by cosine")
    options = {"--prompt": model.prompt, "--pool-prompt": model.pool_prompt}
    before, prompt = (
        choose_prompt(encoder.prompts, encoder.default_prompt_name, name, option=option)
        for option, name in options.items()
    )
    digest = model_hash(encoder)
    vectors = cached_vectors(encoder, digest, corpus.texts, model.precision, prompt, together=True)
    anchors = None
    if before != prompt:
        anchors = cached_vectors(encoder, digest, corpus.anchor_texts, model.precision, before, together=True)
    about = {"sha256": digest, "prompt": before, "pool_prompt": prompt}
    return Encoded(vectors, anchors, {"name": model.checkpoint, **about, "precision": model.precision})


def _given(model: Vectors, data: Source, pool: Source | None, corpus: Corpus) -> Encoded:
    """The unit vectors of the texts of a corpus, from a file, and its hash."""
    texts = chain.from_iterable(_every_text(source) for source in (data, pool) if source is not None)
    about = {"vectors": str(model.path), "sha256": identity(model.path)}
    return Encoded(given_vectors(model.path, texts, corpus), None, about)


def _every_text(source: Source) -> Iterator[str]:
    """The text of every row of a source, blank and repeated ones included."""
    if source.columns is not None and len(source.columns) > 1:
        raise UserError(
            f"--vectors has one vector per row, but columns are {list(source.columns)}\nfix: name one column"
        )
    shape = of_texts(open_source(source.path), source.columns[0] if source.columns else None)
    return ((row.cells[0] or "").strip() if row.cells else "" for row in shape.source.read(shape.texts))


def _mined(
    rows: Dataset,
    part: range,
    corpus: Corpus,
    miner: Miner,
    encoded: Encoded,
    k: int,
    teacher: TeacherRule | None,
    reranker: Reranker | None,
    beside: Beside,
    counts: dict[str, int],
) -> Iterator[list[MinedRow]]:
    """A part of the rows with their negatives, block by block; the counts of each block are added to `counts`."""
    depth = k if reranker is None else max(k, CANDIDATES)

    def search(start: int) -> tuple[list[MinedRow], dict[str, int]]:
        block = range(start, min(start + CHUNK, part.stop))
        found = search_block(miner, corpus, encoded.vectors, depth, block, teacher, encoded.anchors)
        judged = None if reranker is None else reranker.choose(corpus, block, found.rows, k)
        chosen = found.rows if judged is None else judged.rows
        none = np.full((len(block), 0), -1, dtype=np.int64)
        easy, near = (
            search_block(other, corpus, encoded.vectors, count, block, None, encoded.anchors).rows if other else none
            for other, count in ((beside.easy, beside.easy_count), (beside.positives, beside.width))
        )
        done = []
        for place, (row, negatives) in enumerate(zip(block, chosen.tolist(), strict=True)):
            own = rows[row].texts
            texts = own if len(own) > 1 else own * 2
            mined = tuple(corpus.texts[i] for i in (*negatives, *easy[place].tolist()) if i >= 0)
            hard = sum(i >= 0 for i in negatives)
            known = () if judged is None else (judged.positive[place], *judged.scores[place, :hard])
            if beside.positives is None:
                done.append(MinedRow(texts, mined, tuple(map(float, known))))
            positives = (corpus.texts[i] for i in near[place].tolist() if i >= 0)
            done += [MinedRow((own[0], p), dealt(mined, i, beside.width), ()) for i, p in enumerate(positives)]
        without = (chosen < 0).all(1) & (easy < 0).all(1)
        sums = {"negatives": int((chosen >= 0).sum()), "rows_without_negatives": int(without.sum())}
        sums |= {"easy_negatives": int((easy >= 0).sum())} if beside.easy else {}
        sums |= {"positives": int((near >= 0).sum())} if beside.positives else {}
        return done, found.counts | (judged.counts if judged else {}) | sums

    for done, more in distributed.in_turn(range(part.start, part.stop, CHUNK), search):
        for name, count in more.items():
            counts[name] = counts.get(name, 0) + count
        yield done


def _record(row: MinedRow, columns: Sequence[str], scored: Sequence[str]) -> dict[str, Any]:
    """A row as it is written; the scores are those of the positive and of the mined negatives."""
    found: dict[str, Any] = dict(zip(columns, (*row.texts, *row.mined), strict=False))
    if scored:
        found[scored[0]] = row.scores[0]
        found |= dict(zip(scored[len(row.texts) - 1 :], row.scores[1:], strict=False))
    return found


SHARED = {"pool"}  # a count that all shards have in common


def write_shards(
    folder: Path,
    shards: Sequence[Shard],
    rows: int,
    block: int,
    made_from: Mapping[str, Any],
    write: Callable[[Path, range], dict[str, Any]],
) -> dict[str, Any]:
    """Write those of these shards that do not exist, one after another; all processes of a group call it together.

    A shard has whole blocks of rows, which are searched at once, so that the search of a row is the same whatever the
    number of shards. A folder whose shards depend on something else than `made_from` is refused. `write` is a function
    of a file and a range of rows, which writes the file and its manifest, and returns the latter.

    Returns:
        The manifest of the last shard, with the counts of all of these shards.
    """
    every = [Shard(number, shards[0].of) for number in range(1, shards[0].of + 1)]
    blocks = -(-rows // block)
    parts = [shard.share(blocks) for shard in every]
    ranges = [range(part.start * block, min(part.stop * block, rows)) for part in parts]
    files = [{"file": f"{shard.name}.parquet", "rows": len(part)} for shard, part in zip(every, ranges, strict=True)]
    _on_the_first(lambda: claim(folder, made_from, files, {}))
    counts, manifest = Counter[str](), dict[str, Any]()
    for shard in shards:
        file = folder / f"{shard.name}.parquet"
        with ExitStack() as held:
            _on_the_first(lambda: held.enter_context(only_writer(file)))  # noqa: B023  it is called at once
            if distributed.broadcast(file.exists() and manifest_of(file).exists()):
                manifest = _read(manifest_of(file))
            else:
                manifest = write(file, ranges[shard.number - 1])
        counts.update({name: count for name, count in manifest["counts"].items() if name not in SHARED})
        if not distributed.rank():
            say("shard", f"{shard}   {manifest['counts']['negatives']:,} negatives")
    manifest["counts"] = {"anchors": 0, "pool": manifest["counts"]["pool"]} | counts
    return manifest


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = read_shaped(path, {"counts": {"negatives": int, "pool": int, "*": int}})
    except DAMAGED as error:
        raise UserError(
            f"{path} is damaged: {error}\nfix: remove it and its .parquet file; they are mined again"
        ) from None
    return found


def _on_the_first(work: Callable[[], Any]) -> None:
    """Let the first process of the group do something; all raise the UserError that it raises."""

    def own() -> None:
        if not distributed.rank():
            work()

    distributed.gather_results(own)
