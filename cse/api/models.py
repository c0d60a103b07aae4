"""`cse.evaluate`, `cse.compare`, `cse.encode`, `cse.mine` and `cse.teach`, for a run or any other checkpoint."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cse.api.trained import TrainedRun, load_encoder
from cse.errors import UserError
from cse.files import require_name

if TYPE_CHECKING:
    from cse.data.datasets import Dataset, Triplets
    from cse.encoder.device import Device
    from cse.encoder.precision import Precision
    from cse.evaluation.comparison import Difference
    from cse.evaluation.results import Scored
    from cse.evaluation.scoring import Wanted
    from cse.inference.quantize import Kind
    from cse.mining.bands import Bands
    from cse.mining.command import Judge
    from cse.mining.given import Vectors
    from cse.mining.miners import Miner
    from cse.mining.reranker import Reranker

Model = TrainedRun | str | Path  # a run stands for its best checkpoint


def name_of(model: Model) -> str:
    """The checkpoint of a model: a folder, `asset:NAME` or Hub id.

    Raises:
        UserError: The model is neither a run nor a text nor a path.
    """
    if isinstance(model, TrainedRun):
        return str(model.checkpoint)
    require_name(model, "model")
    return str(model)


def evaluate(
    model: Model,
    tasks: Wanted = "sts-mini",
    *,
    data: str | None = None,
    device: Device = "auto",
    precision: str = "auto",
    folds: int = 10,
    check: bool = True,
    out: str | Path | None = None,
    prompt: str | None = None,
    dimensions: Sequence[int] | None = None,
    quantize: Sequence[Kind] = (),
) -> Scored:
    """Score a run or another checkpoint on STS and transfer tasks or by evaluators, as `cse eval` does.

    Args:
        model: A run, or a folder or Hub id.
        tasks: Names of tasks and groups, separated by commas: sts, sts-mini, STSB-dev, transfer, MR ...; an evaluator,
            such as `cse.evaluation.Retrieval("folder")`; or a list of both.
        data: A folder with the rows of the tasks. None: CSE_DATA, then the Hub; sts-mini is part of the package.
        device: The device to run on: auto, cpu, cuda or mps; `auto` is the accelerator of this machine, or the CPU.
        precision: fp32, bf16, or auto: bf16 where the hardware computes it natively.
        folds: Folds of the transfer tasks that are cross-validated.
        check: Whether to refuse rows that are not the known sets.
        out: The file to write. None: results.json in the folder of a run, from which the model card takes the scores;
            for another checkpoint, nothing is written.
        prompt: The name of the model's prompt that is put before every text. None: its default prompt, if it has one.
        dimensions: Widths: everything is scored on the first dimensions of the vectors as well; see `Scored.by_width`.
        quantize: Kinds of quantized vectors to score as well: int8, uint8, binary or ubinary; see `Scored.by_kind`.

    Raises:
        UserError: A task is unknown, the checkpoint cannot be loaded, or rows are malformed.
    """
    from cse.console import quiet
    from cse.evaluation import results, scoring

    quiet()
    name = name_of(model)
    default = (
        results.default_out(name, scoring.requested(tasks, data), prompt) if isinstance(model, TrainedRun) else None
    )
    return scoring.evaluate(
        name,
        tasks,
        data=data,
        device=device,
        precision=precision,
        folds=folds,
        check=check,
        prompt=prompt,
        dimensions=dimensions,
        quantize=quantize,
        out=default if out is None else Path(out),
    )


def compare(
    a: Model | Scored,
    b: Model | Scored,
    *,
    tasks: Wanted = "sts-mini",
    data: str | None = None,
    device: Device = "auto",
    precision: str = "auto",
    check: bool = True,
    prompt: str | None = None,
    measures: str | None = None,
) -> dict[str, Difference]:
    """Test whether B is better than A on each task: paired bootstrap, Holm's correction over tasks.

    Args:
        a: A run, a result of `evaluate`, a results.json, or another checkpoint, which is scored first.
        b: Same as `a`; differences are B minus A.
        tasks: What a checkpoint is scored on; see `evaluate` for this and the next three.
        data: A folder with the rows of the tasks.
        device: The device to run on: auto, cpu, cuda or mps; `auto` is the accelerator of this machine, or the CPU.
        precision: fp32, bf16 or auto.
        check: Whether to refuse rows that are not the known sets.
        prompt: The name of the models' prompt that is put before every text. None: their default prompts.
        measures: Names of measures to compare on each task, separated by commas, or `all`. None: the headline of each.

    Returns:
        Differences by task, and of the averages if both have the same complete set of tasks. `verdict` is in words.

    Raises:
        UserError: `a` and `b` have no task in common, or were scored on different rows.
    """
    from cse.console import quiet
    from cse.evaluation import comparison
    from cse.evaluation.results import Scored

    quiet()
    first, second = (model if isinstance(model, Scored) else name_of(model) for model in (a, b))
    return comparison.compare(
        first,
        second,
        tasks=tasks,
        data=data,
        device=device,
        precision=precision,
        check=check,
        prompt=prompt,
        measures=measures,
    )


def encode(
    model: Model | Mapping[str, Model],
    texts: str | Path,
    out: str | Path,
    *,
    column: str = "text",
    label_column: str | None = None,
    device: Device = "auto",
    precision: Precision = "auto",
    normalize: bool = False,
    dimensions: int | None = None,
    save_every: int = 32_768,
    prompt: str | None = None,
    shard: str | None = None,
    shards: int | None = None,
    quantize: Kind | None = None,
    calibration: str | Path | None = None,
    windows: int | None = None,
) -> tuple[int, int]:
    """Write the vectors of the texts in a file. For texts in memory, use `run.encoder.encode(texts)`.

    After a kill or Ctrl-C, the same call resumes and writes the same file.

    Args:
        model: A run, or a folder, `asset:NAME` or Hub id. Or one for each label: LoRA runs over one backbone, of which
            each text is encoded by that of its label; see `cse.Experts`.
        texts: A .txt, .csv, .tsv, .jsonl or .parquet file, or `asset:NAME`.
        out: A .npy or .parquet file; with shards a folder, which `cse.open_vectors` reads.
        column: The column of a table that holds the texts.
        label_column: The column of labels, if there is a model for each label.
        device: The device to run on: auto, cpu, cuda or mps; `auto` is the accelerator of this machine, or the CPU.
        precision: fp32, bf16, or auto: bf16 where the hardware computes it natively.
        normalize: Whether to scale each vector to length 1.
        dimensions: Number of first dimensions to keep, before scaling; see `Encoder.encode`. None: all.
        save_every: Number of rows that are encoded and saved at a time.
        prompt: The name of the model's prompt that is put before every text. None: its default prompt, if it has one.
        shard: One of N equal parts to write, as `3/64`, counted from 1. None: all.
        shards: N, to write all parts; the processes that were started together share them.
        quantize: int8, uint8, binary or ubinary: vectors of 8 bits or 1 bit per dimension; see `cse.quantize`.
        calibration: The file of the ranges of the dimensions, for int8 and uint8. If it does not exist, they are
            measured on the first 10,000 texts and saved there. None: `quantization.json` in the folder of the model,
            with which it is published, or for other models OUT.quantization.json.
        windows: A step in tokens, to read texts that are too long in windows instead of cutting them; see
            `Encoder.encode`. None: they are cut.

    Returns:
        Number of rows, of all shards, and size of the vectors, or their number of codes.

    Raises:
        UserError: A file cannot be read or written, an argument is out of range, a row has no label, or one without a
            model, or models of labels do not share a backbone.
    """
    from cse.console import progress, quiet, say
    from cse.distributed import own_gpu
    from cse.encoder.prompts import choose_prompt
    from cse.inference.encode import TextFile, check_out, cut_into, encode_file
    from cse.inference.experts import Experts
    from cse.inference.quantize import Quantizer, calibration_file
    from cse.inference.shards import chosen

    if not isinstance(texts, str | Path):
        what = f"texts is a {type(texts).__name__}, and the path of a file is wanted"
        raise UserError(f"{what}\nfix: encode texts in memory with cse.Encoder.load(model).encode(texts)")
    require_name(out, "out")
    quiet()
    each = {label: name_of(one) for label, one in model.items()} if isinstance(model, Mapping) else {}
    if each and label_column is None:
        what = f"there is an adapter for each of {', '.join(each)}, and --label-column is not given"
        raise UserError(f"{what}\nfix: name the column that says which of them a row belongs to")
    if label_column is not None and not each:
        what = f"--label-column is {label_column}, and there is one model for all rows"
        raise UserError(
            f"{what}\nfix: give one for each label, law=runs/law/last,medicine=runs/medicine/last, or omit it"
        )
    named: dict[str, Any] = {"label_column": label_column, "labels": list(each)}
    own, cut = chosen(shard, shards), tuple[int, ...]()
    check_out(Path(out), in_shards=bool(own))
    if own:
        own_gpu()
        rows, cut = cut_into(own, Path(out), str(texts), column, save_every, **named)
    else:
        rows = TextFile.scan(str(texts), column, **named)
    total = sum(cut[one.number - 1] for one in own) if own else rows.rows
    blank = f", {rows.blank:,} of them blank; these are encoded as the empty text" if rows.blank else ""
    say("texts", f"{texts} {rows.rows:,} rows{blank}")
    if own:
        say("shards", f"{', '.join(map(str, own[:8]))}{' ...' if len(own) > 8 else ''}, with {total:,} of the rows")
    quantizer, single = None, "" if isinstance(model, Mapping) else name_of(model)
    if quantize is not None:
        quantizer = Quantizer(quantize, Path(calibration or calibration_file(single, Path(out))))
    experts = Experts(each, device=device) if each else None
    encoder = load_encoder(single, device) if experts is None else experts.encoder
    before = choose_prompt(encoder.prompts, encoder.default_prompt_name, prompt, option="--prompt")
    if before:
        say("prompt", f"{before!r} before every text")
    with progress("encoded", total) as advance:
        found = encode_file(
            encoder,
            rows,
            Path(out),
            precision=precision,
            normalize=normalize,
            dimensions=dimensions,
            save_every=save_every,
            prompt=before,
            shards=own,
            cut=cut,
            quantizer=quantizer,
            windows=windows,
            experts=experts,
            progress=advance,
        )
    if quantizer is not None and quantizer.calibration is not None:
        how = "measured on" if quantizer.measured else "those of"
        say("ranges", f"{how} {quantizer.calibration.texts:,} texts: {quantizer.path}")
    return found


def mine(
    model: Model | Vectors,
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
    """Choose hard negatives for rows of text, as `cse mine` does; the processes that a script runs on share the work.

    Args:
        model: A run, or a folder, `asset:NAME` or Hub id, in whose space the miner looks for neighbors; or vectors of
            the rows that lie in a file, `cse.mining.given.Vectors(path)`.
        rows: Texts, or rows of an anchor, a positive, and negatives that stay: in memory, as a path, or as a data set.
        k: Negatives a row, at most.
        columns: Names of the columns of a table. None: recognized by their names; of tuples, by their number.
        limit: Mine for this many first rows. None: all.
        pool: Texts that may become negatives. None: those of the rows.
        pool_columns: Names of the columns of a table of them. None: recognized.
        miner: Chooses the negatives. None: `TopK()`, the 50 nearest neighbors.
        judge: A teacher that drops false negatives.
        reranker: A cross-encoder that drops false negatives; see `cse.mining.reranker`.
        scores: Whether `out` gets its scores, too.
        bands: Positives and easy negatives to choose by rank as well; see `cse.mining.bands.Bands`.
        device: The device to run on: auto, cpu, cuda or mps; `auto` is the accelerator of this machine, or the CPU.
        precision: fp32, bf16, or auto: bf16 where the hardware computes it natively.
        prompt: The name of the model's prompt that is put before anchors. None: its default prompt, if it has one.
        pool_prompt: The name of the prompt that is put before all other texts. None: the default prompt.
        out: A .parquet or .jsonl file to write, with its manifest beside it. None: nothing is written.

    Returns:
        The rows with their negatives, to train on: `cse.train("simcse-sup", data=cse.mine(run, rows))`.

    Raises:
        UserError: Rows or model cannot be loaded, or no text is left to choose from.
    """
    import pyarrow.parquet  # type: ignore[import-untyped, unused-ignore]

    from cse import distributed
    from cse.console import quiet
    from cse.data.datasets import Triplets
    from cse.mining.command import Model as Searched
    from cse.mining.command import Source, mine_file
    from cse.mining.given import Vectors
    from cse.mining.miners import Miner, TopK

    if miner is not None and not isinstance(miner, Miner):
        raise UserError(f"miner is {str(miner)[:60]!r}\nfix: give an object, such as cse.TopK()")
    quiet()
    found, names = _source(rows, columns)
    options: dict[str, Any] = {"device": device, "precision": precision, "prompt": prompt, "pool_prompt": pool_prompt}
    searched = model if isinstance(model, Vectors) else Searched(name_of(model), **options)
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
        rows_of = str(target) if out is not None else pyarrow.parquet.read_table(target)
        mined = Triplets(rows_of, columns=manifest["out"]["columns"])
        distributed.broadcast(None)  # the folder stays until all processes have read the file
        return mined


def teach(
    models: Model | Sequence[Model],
    rows: str | Path | Sized | Dataset,
    out: str | Path,
    *,
    columns: Sequence[str] | None = None,
    limit: int | None = None,
    vectors: bool = False,
    device: Device = "auto",
    precision: Precision = "auto",
    prompt: str | None = None,
) -> Dataset:
    """Write what teachers say of rows, as `cse teach` does. After a kill or Ctrl-C, the same call resumes.

    Args:
        models: A cross-encoder or an encoder: a folder, `asset:NAME`, Hub id or run; or a list of them.
        rows: Texts, pairs or triplets: in memory, as a path, or as a data set.
        out: A .parquet or .jsonl file; its manifest is written beside it.
        columns: Names of the columns of texts. None: recognized by their names.
        limit: Number of rows to read. None: all.
        vectors: Whether encoders give unit vectors instead of cosines. Rows of one text always get them.
        device: The device to run on: auto, cpu, cuda or mps; `auto` is the accelerator of this machine, or the CPU.
        precision: fp32, bf16, or auto: bf16 where the hardware computes it natively.
        prompt: The name of the prompt that encoders put before every text. None: their default prompt.

    Returns:
        The rows with the teachers' numbers, to train on.

    Raises:
        UserError: Rows or models cannot be loaded, or do not go together.
    """
    from cse.console import quiet
    from cse.data.datasets import Dataset
    from cse.data.tools.opening import open_rows
    from cse.data.tools.writing import UNITS
    from cse.teachers.columns import teach_rows

    quiet()
    data = rows if isinstance(rows, Dataset) else open_rows(rows, columns=columns, limit=limit)
    names = [name_of(m) for m in ([models] if isinstance(models, TrainedRun | str | Path) else models)]
    manifest = teach_rows(data, names, Path(out), vectors=vectors, device=device, precision=precision, prompt=prompt)
    return open_rows(
        out,
        kind=UNITS[data.unit],
        weight_column="weight" if data.weighted else None,
        label_column="label" if data.label_names else None,
        teacher_columns=manifest["settings"]["columns"],
    )


def _source(rows: Any, columns: Sequence[str] | None) -> tuple[str | Path | Sized, Sequence[str] | None]:
    """Rows as `cse.mining.command.Source` takes them, and the names of their columns."""
    from cse.data.datasets import Dataset

    if not isinstance(rows, Dataset):
        return rows, columns
    width = max(len(example.texts) for example in rows)
    found = [example.texts + (None,) * (width - len(example.texts)) for example in rows]
    names = ["anchor", "positive", *(f"negative_{i}" for i in range(1, width - 1))]
    return found, columns or (["text"] if width == 1 else names)
