"""bench-model.json: a checkpoint beside cheaper variants of it. `SCHEMA` says its version.

    schema              1
    model               as in results.json
    metrics.<TASK>      the metric of its score; `missing.<TASK>` is why it has none
    rows                [{name, scores {TASK: value}, average or null, megabytes, megabytes_per_million,
                        sentences_per_s, times_as_fast, note}], the checkpoint itself first
    speed               texts {from, n}, seconds, rounds, threads, device, clock: `wall`, or on one thread `processor`
    ranges              texts {from, n} on which the ranges of 8-bit vectors were measured; null if there are none
    precision, versions {...}, created

Scores are times 100. `megabytes` is the size of the files that encoding needs, and `megabytes_per_million` that of a
million vectors. A variant that the checkpoint cannot have has no scores and no numbers, and its `note` says why; so
does that of vectors whose similarities are all equal, which have no scores.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

from cse.console import progress, quiet
from cse.encoder.device import Device
from cse.encoder.vectors import check_widths, halves
from cse.errors import UserError, require_known, require_positive
from cse.evaluation import results, scoring, speed
from cse.evaluation.encoding import Embed, embedder
from cse.evaluation.loading import load_model
from cse.evaluation.reports.table import AVERAGE, Table, make_console, title
from cse.evaluation.results import Scored, has_scores, is_of_run, scores_of
from cse.evaluation.scoring import Wanted
from cse.evaluation.speed import Change
from cse.files import DAMAGED, check_writable, name_of, read_json
from cse.inference.quantize import FILE as RANGES
from cse.inference.quantize import Calibration, Kind, quantize
from cse.inference.variants import Variant, megabytes
from cse.inference.variants import variants as made_of

KINDS: tuple[Kind, ...] = ("int8", "binary")
VARIANTS = ("widths", "int8", "binary", "onnx", "onnx-int8", "layers", "static")
TEXTS = 2_000  # texts on which ranges are measured, at most; the first ones are timed
SCHEMA = 1
FILE = "bench-model.json"
FULL, OF_WIDTH, OF_KIND = "full", "{} dimensions", "{} vectors"  # the names of rows
NOTE = "note"
FIGURES = ("MB", "MB of a million vectors", "sentences/s", "times as fast")


@dataclass(frozen=True, slots=True)
class Measured:
    """A checkpoint or a variant of it; see the module for the fields, which are None for one that does not exist."""

    name: str
    scores: Mapping[str, float] = field(default_factory=dict)
    average: float | None = None
    megabytes: float | None = None
    megabytes_per_million: float | None = None
    sentences_per_s: float | None = None
    times_as_fast: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Hold what `cse.bench_model` returns."""

    rows: list[Measured]  # the checkpoint, then its variants
    about: Mapping[str, Any]  # the rest of bench-model.json, as this module describes it

    def as_dict(self) -> dict[str, Any]:
        """The content of bench-model.json."""
        return {**self.about, "rows": [asdict(row) for row in self.rows]}


def bench_model(
    model: str | PathLike[str],
    tasks: Wanted = "sts-mini",
    *,
    data: str | None = None,
    variants: Sequence[str] = VARIANTS,
    widths: Sequence[int] | None = None,
    layers: Sequence[int] | None = None,
    texts: str | Path | None = None,
    seconds: float = 6.0,
    device: Device = "auto",
    precision: str = "auto",
    check: bool = True,
    prompt: str | None = None,
    out: str | Path | None = None,
) -> Benchmark:
    """Compare a model with cheaper variants of it, as `cse bench-model` does: quality, megabytes, sentences per second.

    A variant that the model cannot have is a row that says why. Variants are made in a temporary folder, and only the
    table is kept.

    Args:
        model: A run, or a folder, `asset:NAME` or Hub id.
        tasks: What is scored; see `cse.evaluate` for this and the next one.
        data: A folder with the rows of the tasks. None: CSE_DATA, then the Hub; sts-mini is part of the package.
        variants: The variants: `widths` (the first dimensions of the vectors), `int8` and `binary` vectors, `onnx` and
            `onnx-int8` (an exported graph, and one with weights of 8 bits), `layers` (the first layers), and `static`
            (a vector for each token).
        widths: Numbers of first dimensions. None: a half, a quarter and an eighth of them.
        layers: Numbers of first layers. None: a half and a quarter of them.
        texts: Texts that are timed, on which the ranges of 8-bit vectors are measured, and whose counts rank the tokens
            of static vectors: a file, `asset:NAME` or Hub id. None: `asset:triplets-mini`, and the order of the
            vocabulary ranks tokens. A model with a quantization.json of whole vectors keeps its ranges.
        seconds: Least time that each model encodes, in three rounds in which they take turns.
        device: See `cse.encoder.device`; an exported graph runs on the CPU.
        precision: fp32, bf16 or auto; an exported graph has its own.
        check: Whether to refuse rows that are not the known sets.
        prompt: See `Encoder.encode`.
        out: The file to write. None: bench-model.json in the folder of a run, from which the model card takes the
            table; for another checkpoint, nothing is written.

    Raises:
        UserError: An argument is out of range, the model cannot be loaded, or no task has rows.
    """
    quiet()
    require_known("--variants", variants, VARIANTS)
    require_positive("bench-model", seconds=seconds)
    scoring.parted(tasks, data)  # a misspelled name fails before anything is loaded
    name = name_of(model)
    target = file_of(name) if out is None else Path(out)
    if target is not None:
        check_writable(target)
    some, origin = _read(texts)
    whole = load_model(name, prompt=prompt, device=device)
    encode = embedder(whole.encoder, precision, prompt=prompt)
    dim = int(encode(["a"]).shape[1])
    widths = _widths(widths, dim) if "widths" in variants else []
    layers = _layers(layers, getattr(whole.encoder, "depth", 0)) if "layers" in variants else []
    codes: list[Kind] = [kind for kind in KINDS if kind in variants]
    models = [kind for kind in VARIANTS if kind in variants and kind not in ("widths", *KINDS)]
    ranks = None if texts is None else str(texts)
    others = made_of(whole.folder, whole.encoder, models, layers=layers, ranks=ranks, device=device)
    options: dict[str, Any] = {"data": data, "device": device, "precision": precision, "check": check, "prompt": prompt}
    with tempfile.TemporaryDirectory(prefix="cse-bench-") as scratch, progress("variants", 2 + len(others)) as advance:
        advance(0, FULL)
        ranges, ranges_of = _ranges(whole.folder, dim, encode, some, origin) if codes else (None, "")
        cuts: dict[str, Any] = {"dimensions": widths or None, "quantize": codes, "calibration": ranges}
        scored = scoring.evaluate(name, tasks, **options, **cuts)
        if not has_scores(scored.results):
            task, why = next(iter(_missing(scored.results).items()))
            what = f"--tasks: {task} cannot be scored: {why[:200]}"
            raise UserError(f"{what}\nfix: give its rows (--data), or other tasks")
        rows = _reduced(scored, widths, dim, whole.folder)
        encoders = {FULL: encode}
        for number, variant in enumerate(others, start=1):
            advance(number, variant.name)
            row, encodes = _row(variant, Path(scratch, variant.name.replace(" ", "-")), tasks, options)
            rows.append(row)
            encoders |= {} if encodes is None else {variant.name: encodes}
        advance(1 + len(others), "speed")
        clock = speed.clock_of(whole.encoder)
        timed = speed.enough(encode, some, seconds, clock)
        changes: dict[str, Change] = {OF_WIDTH.format(width): scoring.first_dimensions(width) for width in widths}
        changes |= {OF_KIND.format(kind): partial(quantize, kind=kind, calibration=ranges) for kind in codes}
        times = speed.measure(encoders, changes, timed, seconds, clock)
    about = _describe(
        scored.results,
        {"texts": {"from": origin, "n": len(timed)}, "seconds": seconds, **speed.conditions(whole.encoder)},
        None if ranges is None else {"from": ranges_of, "n": ranges.texts},
    )
    found = Benchmark([replace(row, **asdict(times[row.name])) if row.name in times else row for row in rows], about)
    if target is not None:
        results.write(found.as_dict(), target)
    return found


def _row(variant: Variant, made: Path, tasks: Wanted, options: dict[str, Any]) -> tuple[Measured, Embed | None]:
    """The row of a variant, which is written into a folder, and what encodes with it; None if the model has none."""
    prompt, device = options["prompt"], options["device"]
    try:
        note = variant.build(made)
        scored = scoring.evaluate(made, tasks, **options)
        encode = embedder(
            load_model(str(made), prompt=prompt, device=device).encoder, options["precision"], prompt=prompt
        )
        size = 4 * int(encode(["a"]).shape[1])
    except UserError as error:
        return Measured(variant.name, note=str(error).splitlines()[0]), None
    return _measured(variant.name, scored, made, size, note), encode


def _widths(wanted: Sequence[int] | None, dim: int) -> list[int]:
    """The widths that are measured, widest first."""
    if wanted is not None:
        check_widths(wanted, dim, option="--widths")
    return sorted(halves(dim)[1:] if wanted is None else wanted, reverse=True)


def _layers(wanted: Sequence[int] | None, depth: int) -> list[int]:
    """The numbers of layers that are measured, most first; none for a model without layers that cse can cut."""
    if not depth:
        return []
    for layers in wanted or []:
        if not 1 <= layers <= depth:
            raise UserError(f"--layers has {layers}, but the model has {depth}\nfix: give integers from 1 to {depth}")
    return sorted(halves(depth)[1:3] if wanted is None else wanted, reverse=True)


def _read(texts: str | Path | None) -> tuple[list[str], str]:
    """The texts that are timed, and their source as a card may name it."""
    from cse.inference.static import COLUMNS, ENGLISH
    from cse.inference.whiten import read_texts

    if texts is None:
        return read_texts(ENGLISH, COLUMNS, TEXTS)[:TEXTS], ENGLISH
    source = str(texts)
    found = read_texts(source, ["text"], TEXTS, options=("--texts", "--texts"))
    return found, source if source.startswith("asset:") else Path(source).name


def _ranges(folder: Path, dim: int, encode: Embed, texts: list[str], origin: str) -> tuple[Calibration, str]:
    """The ranges of whole vectors, and where they come from: the folder of the model, or texts."""
    known = scoring.calibration_for(folder, ())
    if known is not None and len(known.low) == dim:
        return known, RANGES
    return Calibration.of(encode(texts)), origin


def _reduced(scored: Scored, widths: Sequence[int], dim: int, folder: Path) -> list[Measured]:
    """The rows of a checkpoint and of what is made of its vectors, of which a whole one has `dim` numbers."""
    whole = _measured(FULL, scored, folder, 4 * dim)
    cuts = {e["width"]: e for e in scored.results.get("dimensions", [])}
    entries = [(OF_WIDTH.format(width), 4 * width, cuts[width]) for width in widths]
    codes = [e for e in scored.results.get("quantized", []) if e["kind"] != "float32"]
    entries += [(OF_KIND.format(e["kind"]), e["bytes"], e) for e in codes]
    return [whole] + [
        Measured(name, scores_of(e), e["average"], whole.megabytes, size, note=e.get("undefined", ""))
        for name, size, e in entries
    ]


def _measured(name: str, scored: Scored, folder: Path, size: int, note: str = "") -> Measured:
    """The row of a model that was scored; `size` is the bytes of a vector, so the MB of a million of them."""
    average = scored.results["average"]["value"] if scored.results["tasks"] else None
    return Measured(name, scored.scores, average, megabytes(folder), size, note=note)


def _missing(scored: Mapping[str, Any]) -> dict[str, str]:
    """Why tasks have no score, by task."""
    return {**scored["missing"], **scored.get("transfer_average", {}).get("missing", {})}


def _describe(scored: Mapping[str, Any], speed: Mapping[str, Any], ranges: Mapping[str, Any] | None) -> dict[str, Any]:
    """All of bench-model.json but the rows, from the results of the whole model and two entries."""
    metrics = {task: entry["metric"] for task, entry in scored["tasks"].items()}
    metrics |= dict.fromkeys(scored.get("transfer", {}), "accuracy")
    kept = {name: scored[name] for name in ("model", "precision", "versions", "created")}
    return {"schema": SCHEMA, "metrics": metrics, "missing": _missing(scored), "speed": speed, "ranges": ranges, **kept}


def table(found: Mapping[str, Any]) -> Table:
    """The table of a bench-model.json; the notes come last, if there are any."""
    rows, tasks = found["rows"], list(found["metrics"])
    averaged = len(tasks) > 1 and any(row["average"] is not None for row in rows)
    noted = any(row["note"] for row in rows)
    lines = []
    for row in rows:
        scores = [row["scores"].get(task) for task in tasks] + ([row["average"]] if averaged else [])
        figures = [(row["megabytes"], ",.1f"), (row["megabytes_per_million"], ",.0f")]
        figures += [(row["sentences_per_s"], ",.0f"), (row["times_as_fast"], ",.2f")]
        shown = [(score, ".2f") for score in scores] + figures
        line = [row["name"], *("-" if value is None else format(value, form) for value, form in shown)]
        lines.append(line + ([row["note"]] if noted else []))
    heads = ["variant", *tasks, *([AVERAGE] if averaged else []), *FIGURES, *([NOTE] if noted else [])]
    return Table(heads, lines, ("variant", NOTE), found["model"]["name"], wrap=True)


def show(found: Mapping[str, Any]) -> None:
    """Print the table of a bench-model.json, and below it what the numbers depend on."""
    console = make_console()
    console.print(table(found).terminal())
    console.print(conditions(found), highlight=False, markup=False)
    for name, reason in found["missing"].items():
        console.print(f"{name} is missing: {reason}", highlight=False, markup=False)


def markdown(found: Mapping[str, Any]) -> str:
    """The table of a bench-model.json for a page, and below it what the numbers depend on."""
    return f"{table(found).markdown()}\n{conditions(found)}\n"


def conditions(found: Mapping[str, Any]) -> str:
    """Say what the numbers of a bench-model.json are and depend on, in a few sentences."""
    speed, ranges = found["speed"], found["ranges"]
    threads = f"{speed['threads']} thread{'s' if speed['threads'] > 1 else ''}"
    threads += ", processor time" if speed["clock"] == "processor" else ""
    said = (
        f"Scores are {title(found['metrics'].values())}. Speed: {speed['device']}, {threads}, {found['precision']}, "
        f"{_texts(speed['texts'])}, median of {speed['rounds']} rounds."
    )
    return said if ranges is None else f"{said} Ranges of 8-bit vectors: {_texts(ranges)}."


def _texts(about: Mapping[str, Any]) -> str:
    return f"{about['n']:,} texts of {about['from']}"


def read(path: Path) -> dict[str, Any]:
    """Read a bench-model.json."""
    try:
        found: dict[str, Any] = read_json(path)
        if found["schema"] != SCHEMA:
            raise ValueError(f"schema is {found['schema']!r}")
        markdown(found)
        str(found["model"]["sha256"])
    except DAMAGED as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{path} cannot be read as a benchmark: {reason}\nfix: run `cse bench-model` again, or remove the file"
        ) from None
    return found


def file_of(checkpoint: str | Path) -> Path | None:
    """Find the place of a checkpoint's benchmark: in its run, or None if it does not belong to a run."""
    folder = Path(checkpoint)
    name = FILE if folder.name == "best" else f"{Path(FILE).stem}-{folder.name}.json"
    return folder.parent / name if is_of_run(folder) else None
