"""Encodes a file of any size, one block of rows at a time; a killed job resumes after its last complete block."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from cse.console import progress, quiet, say
from cse.data.reading.files import FileReader
from cse.data.reading.rows import Column, Reader
from cse.data.reading.sources import named, open_path
from cse.data.reading.store import mark
from cse.distributed import own_gpu
from cse.encoder.checkpoint.identity import origin
from cse.encoder.device import Device, Precision, choose, resolved
from cse.encoder.job import fill, resumable
from cse.encoder.model import Encoder
from cse.encoder.prompts import choose_prompt
from cse.encoder.vectors import check_widths, unit
from cse.errors import UserError
from cse.files import cache_dir, check_writable, name_of, read_sealed, require_name, write_sealed, writing_cache
from cse.inference.experts import Experts, parse
from cse.inference.quantize import Kind, Quantizer, calibration_file
from cse.inference.shards import Shard, chosen, claim, fingerprint, open_shard, require_pieces

FORMATS = (".npy", ".parquet")
BLOCK = 32_768  # rows that are encoded and saved at a time
Change = Callable[[NDArray[np.float32]], NDArray[Any]]
BLOCK_LETTERS = 1 << 22  # characters after which a block ends too, which bounds the memory for long texts


@dataclass(frozen=True, slots=True)
class Block:
    """The texts of rows that are encoded and saved at a time, and their labels if they are read."""

    texts: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class TextFile:
    """A file of texts, one in each row."""

    path: str  # the source; see `cse.data.reading.sources.read`
    column: str  # the column of a table that holds the texts
    rows: int  # number of rows
    blank: int  # number of rows that are empty or null, or lack the column
    sha256: str  # hash of all texts
    counts: tuple[int, ...] = ()  # number of rows of each file, if the source is a file or several
    marks: tuple[str, ...] = ()  # their marks, by which it is seen that they did not change
    label_column: str | None = None  # the column of labels. None: no labels are read
    first_blank: str = ""  # the place of the first blank row, file:line

    @classmethod
    def scan(
        cls, path: str, column: str = "text", *, label_column: str | None = None, labels: Sequence[str] = ()
    ) -> TextFile:
        """Read the file once, so that an error in any row, also another label, is reported before the work starts."""
        digest, blank, first_blank, counts = hashlib.sha256(), 0, "", []
        for file in _files(path):
            rows = 0
            for row in _rows(file, column, label_column):
                if label_column is not None and row.label not in labels:
                    what = f"has the label {row.label!r}" if row.label else "has no label"
                    raise UserError(
                        f"--label-column {label_column}: {row.place} {what}, and there are adapters for "
                        f"{', '.join(labels)}\nfix: give an adapter for it as well, or remove the row"
                    )
                for cell in (row.text,) if label_column is None else (row.text, row.label):
                    digest.update(f"{len(cell)}:{cell}".encode())  # with lengths, so that the hashes of lists differ
                rows += 1
                if not row.text.strip():
                    blank, first_blank = blank + 1, first_blank or row.place
            counts.append(rows)
        if not any(counts):
            raise UserError(f"texts {path}: the file is empty\nfix: give a file with texts")
        sums = (digest.hexdigest(), tuple(counts), _marks(path))
        return cls(path, column, sum(counts), blank, *sums, label_column, first_blank)

    def cut(self, save_every: int, shards: int) -> tuple[int, ...]:
        """The number of rows of each shard: shards end at the ends of blocks, and have equally many, within one."""
        blocks = [len(block.texts) for block in self.blocks(save_every)]
        each = [Shard(number, shards) for number in range(1, shards + 1)]
        smaller = max(1, self.rows // shards)
        require_pieces(len(blocks), each, "blocks of rows", f"give --save-every {smaller} or less, or fewer shards")
        return tuple(sum(blocks[i] for i in shard.share(len(blocks))) for shard in each)

    def blocks(self, rows: int, skip: int = 0, stop: int | None = None) -> Iterator[Block]:
        """Blocks of at most `rows` rows and `BLOCK_LETTERS`: those from `skip` to `stop`.

        The ends of the blocks depend only on the texts if `skip` is itself the end of a block.
        """
        block, letters = Block(), 0
        for row in islice(self._from(skip), None if stop is None else stop - skip):
            if block.texts and (len(block.texts) == rows or letters + len(row.text) > BLOCK_LETTERS):
                yield block
                block, letters = Block(), 0
            block.texts.append(row.text)
            if self.label_column is not None:
                block.labels.append(row.label)
            letters += len(row.text)
        if block.texts:
            yield block

    def _from(self, row: int) -> Iterator[_Row]:
        """The rows from a number on; files before it are not read."""
        files, counts = _files(self.path), list(self.counts)
        while len(counts) > 1 and counts[0] <= row:
            row -= counts.pop(0)
            files.pop(0)
        return islice(chain.from_iterable(_rows(file, self.column, self.label_column) for file in files), row, None)


def cut_into(
    shards: Sequence[Shard],
    path: str,
    column: str,
    save_every: int,
    *,
    label_column: str | None = None,
    labels: Sequence[str] = (),
) -> tuple[TextFile, tuple[int, ...]]:
    """The texts and the number of rows of each shard, for which the texts are read twice.

    Of a job's processes that share a cache, the first one reads files, and the others wait for what it finds.
    """
    marks = _marks(path)
    asked = [os.path.abspath(path), marks, column, label_column, labels, save_every, shards[0].of]
    file = cache_dir() / "cuts" / f"{hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:32]}.json"
    with ExitStack() as waiting:
        if marks:
            waiting.enter_context(writing_cache("cuts"))
            file.parent.mkdir(parents=True, exist_ok=True)
            waiting.enter_context(FileLock(f"{file}.lock"))
            with suppress(OSError, ValueError):  # absent or damaged
                known = read_sealed(file)
                counts = {"path": path, "counts": tuple(known["texts"]["counts"]), "marks": marks}
                return TextFile(**{**known["texts"], **counts}), tuple(known["rows"])
        texts = TextFile.scan(path, column, label_column=label_column, labels=labels)
        cut = texts.cut(save_every, shards[0].of)
        if marks:
            write_sealed(file, {"texts": asdict(texts), "rows": cut})
    return texts, cut


def encode(
    model: str | PathLike[str] | Mapping[str, str | PathLike[str]],
    texts: str | PathLike[str],
    out: str | Path,
    *,
    column: str = "text",
    label_column: str | None = None,
    prompt: str | None = None,
    device: Device = "auto",
    precision: Precision = "auto",
    normalize: bool = False,
    dimensions: int | None = None,
    save_every: int = BLOCK,
    windows: int | None = None,
    quantize: Kind | None = None,
    calibration: str | Path | None = None,
    shard: str | None = None,
    shards: int | None = None,
) -> tuple[int, int]:
    """Write the vectors of the texts in a file. For texts in memory, use `cse.Encoder.load(model).encode(texts)`.

    After a kill or Ctrl-C, the same call resumes and writes the same file.

    Args:
        model: A run, a folder, `asset:NAME` or Hub id. Or LABEL=FOLDER,LABEL=FOLDER (in Python also a mapping): best/
            or last/ of LoRA runs over one backbone, for `label_column`.
        texts: A .txt, .csv, .tsv, .jsonl or .parquet file, also as .gz, or `asset:NAME`.
        out: A .npy or .parquet file; one row of float32 for each text. With shards: a folder, of .npy files, which
            `cse.open_vectors` reads.
        column: Column of a table that holds the texts.
        label_column: Column of labels, each of which names the adapter that encodes the text.
        prompt: See `Encoder.encode`.
        device: See `cse.encoder.device`.
        precision: See `Encoder.encode`.
        normalize: Scale every vector to length 1.
        dimensions: Keep the first N dimensions of every vector, before scaling.
        save_every: Number of texts that are encoded and saved at a time.
        windows: Read texts that are too long in windows that begin N tokens apart, instead of cutting them.
        quantize: Write vectors of 8 bits (int8, uint8) or 1 bit (binary, ubinary) per dimension; see `cse.quantize`.
        calibration: Ranges of the dimensions for 8 bits, measured on the first 10,000 texts and saved if it does not
            exist. None: quantization.json in the checkpoint, with which it is published, or OUT.quantization.json.
        shard: See `cse.inference.shards`: one of N equal parts to write, as `3/64`.
        shards: See `cse.inference.shards`: N, to write all parts, shared by the processes that were started together.

    Returns:
        Number of rows, of all shards, and size of the vectors, or their number of codes.

    Raises:
        UserError: A file cannot be read or written, an argument is out of range, a row has no label, or one without a
            model, or models of labels do not share a backbone.
    """
    if not isinstance(texts, str | PathLike):
        what = f"texts is a {type(texts).__name__}, and the path of a file is wanted"
        raise UserError(f"{what}\nfix: encode texts in memory with cse.Encoder.load(model).encode(texts)")
    require_name(out, "out")
    if save_every < 1:
        raise UserError(f"--save-every is {save_every}\nfix: give an integer >= 1")
    quiet()
    model = (parse(model) if isinstance(model, str) else {}) or model
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
        rows, cut = cut_into(own, str(texts), column, save_every, **named)
    else:
        rows = TextFile.scan(str(texts), column, **named)
    total = sum(cut[one.number - 1] for one in own) if own else rows.rows
    blank = f", of them {rows.blank:,} blank, null or without `{column}`, first {rows.first_blank}"
    say("texts", f"{texts} {rows.rows:,} rows{f'{blank}; encoded as the empty text' if rows.blank else ''}")
    if own:
        say("shards", f"{', '.join(map(str, own[:8]))}{' ...' if len(own) > 8 else ''}, with {total:,} of the rows")
    quantizer, single = None, "" if isinstance(model, Mapping) else name_of(model)
    if quantize is not None:
        quantizer = Quantizer(quantize, Path(calibration or calibration_file(single, Path(out))))
    experts = Experts(each, device=device) if each else None
    encoder = Encoder.load(single).to(choose(device)) if experts is None else experts.encoder
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


def encode_file(
    encoder: Encoder,
    texts: TextFile,
    out: Path,
    *,
    precision: Precision = "auto",
    normalize: bool = False,
    dimensions: int | None = None,
    save_every: int = BLOCK,
    prompt: str | None = None,
    shards: Sequence[Shard] = (),
    cut: Sequence[int] = (),
    quantizer: Quantizer | None = None,
    windows: int | None = None,
    experts: Experts | None = None,
    progress: Callable[[int], None] = lambda rows: None,
) -> tuple[int, int]:
    """Write the vectors of texts, one row for each text in their order; an empty text has a vector too. See `encode`.

    A file has the same bytes as without an interruption (on the same machine with the same number of threads). Shards
    have, one after another, the rows of the one file that would be written without them; `cut` has the number of rows
    of every shard, and those that exist are left as they are. `quantizer` makes codes of the vectors when a file is
    complete. `experts` encode each text by the adapter of its label; `encoder` is then theirs. `progress` is called
    with the number of complete rows, at first and after each block.
    """
    check_out(out, in_shards=bool(shards))
    size = encoder.dim if dimensions is None else dimensions
    check_widths([size], encoder.dim, option="--dimensions")
    before = encoder.prompt_text(None, prompt)
    computed: Precision = resolved(precision, encoder.device)
    made_from = origin(encoder, texts=texts.sha256, precision=computed, prompt=before)
    made_from |= {"normalize": normalize, "dimensions": size, "save_every": save_every}
    if experts is not None:
        made_from["experts"] = experts.labels
    if windows is not None:
        encoder.encode([], prompt=before, windows=windows)  # refuses a step that is out of range
        made_from["windows"] = windows
    stored = ("float32", size)
    if quantizer is not None:
        known = {"model": made_from["checkpoint"], "prompt": before, "normalize": normalize}
        made_from |= quantizer.begin(known, size, several=bool(shards))
        stored = (quantizer.dtype.name, quantizer.width(size))
    pieces = [(out, 0, texts.rows)]
    if shards:
        pieces = _pieces(out, texts, shards, cut, stored, made_from)
    model: Any = experts or encoder
    complete = 0

    def read(block: Block) -> Any:
        labels = () if experts is None else (block.labels,)
        return model.read(block.texts, *labels, prompt=before, windows=windows)

    def vectors(block: Any) -> NDArray[np.float32]:
        found: NDArray[np.float32] = model.encode_read(block, precision=computed, dimensions=size)
        return unit(found) if normalize else found

    for path, first, rows in pieces:
        if not shards or not _exists(path, (rows, stored[1]), stored[0]):
            with _written(out), resumable(path, (rows, size), made_from) as written:
                progress(complete + written.done)
                stop = None if first + rows == texts.rows else first + rows  # a file that grew is noticed
                blocks = texts.blocks(save_every, first + written.done, stop)
                fill(written, blocks, read, vectors, lambda done: progress(complete + done))  # noqa: B023
                if written.done != rows:
                    raise UserError(
                        f"texts {texts.path} changed while the file was read\nfix: run again when the file is complete"
                    )
                written.finish(_conversion(out.suffix, quantizer), summed=bool(shards))
        complete += rows
    return texts.rows, stored[1]


def _pieces(
    out: Path,
    texts: TextFile,
    shards: Sequence[Shard],
    cut: Sequence[int],
    stored: tuple[str, int],
    made_from: dict[str, Any],
) -> list[tuple[Path, int, int]]:
    """The file, the first row and the number of rows of each of these shards, of a folder with its index."""
    begins = fingerprint([made_from, list(cut)])
    every = [Shard(number, len(cut)) for number in range(1, len(cut) + 1)]
    files = [{"file": f"{begins}-{shard.name}.npy", "rows": rows} for shard, rows in zip(every, cut, strict=True)]
    about = {"rows": texts.rows, "width": stored[1], "dtype": stored[0]}
    with _written(out):
        claim(out, made_from, files, about)
    places = [shard.number - 1 for shard in shards]
    return [(out / str(files[i]["file"]), sum(cut[:i]), cut[i]) for i in places]


def _exists(shard: Path, shape: tuple[int, int], dtype: str) -> bool:
    """Tell whether a shard is written already; one that is damaged is written again."""
    if not shard.exists():
        return False
    try:
        open_shard(shard, shape, dtype, str(shard))
    except UserError as error:
        say("note", f"{str(error).splitlines()[0]}; it is encoded again")
        return False
    return True


def check_out(out: Path, *, in_shards: bool = False) -> None:
    """Check that a file, or a folder of shards, can be written, before the work starts."""
    if in_shards and out.suffix in FORMATS:
        raise UserError(f"--out is {out}, and shards are files in a folder\nfix: give a folder, such as {out.stem}")
    if not in_shards and out.suffix not in FORMATS:
        raise UserError(f"--out is {out}\nfix: give a name that ends in {' or '.join(FORMATS)}")
    check_writable(out, kind="folder" if in_shards else "file")


def _files(path: str) -> list[Reader]:
    """The files of a source one by one; another source as it is."""
    with named("texts"):
        source = open_path(path)
        return [FileReader(path, [file]) for file in source.files] if isinstance(source, FileReader) else [source]


def _marks(path: str) -> tuple[str, ...]:
    """The marks of the files of a source; none of another source."""
    return tuple(mark(file) for source in _files(path) if isinstance(source, FileReader) for file in source.files)


class _Row(NamedTuple):
    """A text, its label, which is empty if none is read, and its place, file:line."""

    text: str
    label: str
    place: str


def _rows(source: Reader, column: str, label_column: str | None) -> Iterator[_Row]:
    """All rows; a blank line or an empty cell gives an empty text."""
    columns = [Column("--column", column)]
    columns += [] if label_column is None else [Column("--label-column", label_column)]
    with named("texts"):
        for row in source.read(columns):
            yield _Row(row.cells[0] or "", "" if label_column is None else (row.cells[1] or "").strip(), row.place)


# -- On disk -----------------------------------------------------------------------------------------------------------


@contextmanager
def _written(out: Path) -> Iterator[None]:
    """Turn a full disk or a failure of it into a message for the user; complete blocks stay."""
    try:
        yield
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
        again = "free some space and run the same command again; it resumes where it stopped"
        raise UserError(
            f"--out {out} cannot be written: {error.strerror or error}\nfix: {again if full else 'give another path'}"
        ) from error


def _conversion(suffix: str, quantizer: Quantizer | None) -> Callable[[Path, Path], None] | None:
    """Choose what makes the final file of the float32 rows in a .npy file; None if these are the file."""
    if quantizer is None and suffix != ".parquet":
        return None

    def convert(source: Path, target: Path) -> None:
        vectors = np.load(source, mmap_mode="r")  # (n, D)
        if quantizer is not None:
            quantizer.measure(vectors)
        (_to_parquet if suffix == ".parquet" else _to_codes)(vectors, target, quantizer or np.ascontiguousarray)

    return convert


def _to_codes(vectors: NDArray[np.float32], target: Path, change: Change) -> None:
    """Write changed rows as a .npy file."""
    first = change(vectors[:1])
    shape = (len(vectors), first.shape[1])
    codes = np.lib.format.open_memmap(target, mode="w+", dtype=first.dtype, shape=shape)
    for start in range(0, len(vectors), BLOCK):
        codes[start : start + BLOCK] = change(vectors[start : start + BLOCK])
    codes.flush()


def _to_parquet(vectors: NDArray[np.float32], target: Path, change: Change) -> None:
    """Write changed rows as a parquet file, with one row group for each `BLOCK`."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    first = change(vectors[:1])
    rows, size = len(vectors), first.shape[1]
    schema = pa.schema([("row", pa.int64()), ("vector", pa.list_(pa.from_numpy_dtype(first.dtype), size))])
    with ParquetWriter(target, schema, compression="none", use_dictionary=["row"]) as writer:
        for start in range(0, rows, BLOCK):
            part = change(vectors[start : start + BLOCK])
            flat = pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), size)
            numbers = pa.array(np.arange(start, start + len(part), dtype=np.int64))
            writer.write_table(pa.table([numbers, flat], schema=schema))
