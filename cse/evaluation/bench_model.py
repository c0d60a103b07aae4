"""`cse.bench_model`: a checkpoint beside cheaper variants of it: quality, size and speed in one table."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cse.errors import UserError, require_positive
from cse.files import name_of

if TYPE_CHECKING:
    from cse.encoder.device import Device
    from cse.evaluation.benchmark import Benchmark, Measured
    from cse.evaluation.encoding import Embed
    from cse.evaluation.scoring import Wanted
    from cse.evaluation.speed import Change
    from cse.inference.quantize import Calibration, Kind
    from cse.inference.variants import Variant

KINDS: tuple[Kind, ...] = ("int8", "binary")
VARIANTS = ("widths", *KINDS, "onnx", "onnx-int8", "layers", "static")
TEXTS = 2_000  # texts on which ranges are measured, at most; the first ones are timed


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
        seconds: The least time that each model encodes, in three rounds in which they take turns.
        device: The device to run on: auto, cpu, cuda or mps; an exported graph runs on the CPU.
        precision: fp32, bf16, or auto: bf16 where the hardware computes it natively; an exported graph has its own.
        check: Whether to refuse rows that are not the known sets.
        prompt: The name of the model's prompt that is put before every text. None: its default prompt, if it has one.
        out: The file to write. None: bench-model.json in the folder of a run, from which the model card takes the
            table; for another checkpoint, nothing is written.

    Raises:
        UserError: An argument is out of range, the model cannot be loaded, or no task has rows.
    """
    from cse.console import progress, quiet
    from cse.evaluation import benchmark, results, scoring, speed
    from cse.evaluation.encoding import embedder
    from cse.evaluation.loading import load_model
    from cse.files import check_writable
    from cse.inference.variants import variants as made_of

    quiet()
    _check_variants(variants)
    require_positive("bench-model", seconds=seconds)
    scoring.parted(tasks, data)  # a misspelled name fails before anything is loaded
    name = name_of(model)
    target = benchmark.file_of(name) if out is None else Path(out)
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
        advance(0, benchmark.FULL)
        ranges, ranges_of = _ranges(whole.folder, dim, encode, some, origin) if codes else (None, "")
        reduced: dict[str, Any] = {"dimensions": widths or None, "quantize": codes, "calibration": ranges}
        scored = scoring.evaluate(name, tasks, **options, **reduced)
        benchmark.require_scores(scored.results)
        rows = benchmark.reduced(scored.results, widths, dim, whole.folder)
        encoders = {benchmark.FULL: encode}
        for number, variant in enumerate(others, start=1):
            advance(number, variant.name)
            row, encodes = _row(variant, Path(scratch, variant.name.replace(" ", "-")), tasks, options)
            rows.append(row)
            encoders |= {} if encodes is None else {variant.name: encodes}
        advance(1 + len(others), "speed")
        clock = speed.clock_of(whole.encoder)
        timed = speed.enough(encode, some, seconds, clock)
        times = speed.measure(encoders, _changes(widths, codes, ranges), timed, seconds, clock)
    about = benchmark.describe(
        scored.results,
        {"texts": {"from": origin, "n": len(timed)}, "seconds": seconds, **speed.conditions(whole.encoder)},
        None if ranges is None else {"from": ranges_of, "n": ranges.texts},
    )
    found = benchmark.Benchmark([benchmark.with_speed(row, times.get(row.name)) for row in rows], about)
    if target is not None:
        results.write(found.as_dict(), target)
    return found


def _row(variant: Variant, made: Path, tasks: Wanted, options: dict[str, Any]) -> tuple[Measured, Embed | None]:
    """The row of a variant, which is written into a folder, and what encodes with it; None if the model has none."""
    from cse.evaluation import benchmark, scoring
    from cse.evaluation.encoding import embedder
    from cse.evaluation.loading import load_model

    prompt, device = options["prompt"], options["device"]
    try:
        note = variant.build(made)
        scored = scoring.evaluate(made, tasks, **options)
        encode = embedder(
            load_model(str(made), prompt=prompt, device=device).encoder, options["precision"], prompt=prompt
        )
        size = 4 * int(encode(["a"]).shape[1])
    except UserError as error:
        return benchmark.Measured(variant.name, note=str(error).splitlines()[0]), None
    return benchmark.row(variant.name, scored.results, made, size, note), encode


def _check_variants(variants: Sequence[str]) -> None:
    """Refuse an unknown name, and a name that occurs twice."""
    for name in variants:
        if name not in VARIANTS:
            raise UserError(f"--variants has {name!r}\nfix: give some of {', '.join(VARIANTS)}")
        if list(variants).count(name) > 1:
            raise UserError(f"--variants has {name} twice\nfix: give each one once")


def _widths(wanted: Sequence[int] | None, dim: int) -> list[int]:
    """The widths that are measured, widest first."""
    from cse.encoder import widths

    if wanted is not None:
        widths.check(wanted, dim, option="--widths")
    return sorted(widths.halves(dim)[1:] if wanted is None else wanted, reverse=True)


def _layers(wanted: Sequence[int] | None, depth: int) -> list[int]:
    """The numbers of layers that are measured, most first; none for a model without layers that cse can cut."""
    from cse.encoder import widths

    if not depth:
        return []
    for layers in wanted or []:
        if not 1 <= layers <= depth:
            raise UserError(f"--layers has {layers}, but the model has {depth}\nfix: give integers from 1 to {depth}")
    return sorted(widths.halves(depth)[1:3] if wanted is None else wanted, reverse=True)


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
    from cse.evaluation.scoring import calibration_for
    from cse.inference.quantize import FILE, Calibration

    known = calibration_for(folder, ())
    if known is not None and len(known.low) == dim:
        return known, FILE
    return Calibration.of(encode(texts)), origin


def _changes(widths: Sequence[int], codes: Sequence[Kind], ranges: Calibration | None) -> dict[str, Change]:
    """What makes the reduced vectors of whole ones, by the name of their row."""
    from cse.evaluation.benchmark import of_kind, of_width
    from cse.evaluation.scoring import first_dimensions
    from cse.inference.quantize import quantize

    cuts: dict[str, Change] = {of_width(width): first_dimensions(width) for width in widths}
    return cuts | {of_kind(kind): partial(quantize, kind=kind, calibration=ranges) for kind in codes}
