"""Score a checkpoint, on our tasks or on MTEB's: what `cse eval CHECKPOINT` and `cse eval mteb` run, from Python."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from cse.console import quiet, say
from cse.encoder import widths
from cse.encoder.device import Device
from cse.errors import UserError, require_at_least, require_package
from cse.evaluation import describe, results, sources, suite, transfer
from cse.evaluation.encoding import embedder, resolve_precision
from cse.evaluation.finding import ask, require_distinct
from cse.evaluation.harness import Outcome, read_data, score_data
from cse.evaluation.loading import load_model, prompts
from cse.evaluation.reduced import Reduced, Rescoring, calibration_for, rescored
from cse.evaluation.results import Scored
from cse.files import check_writable, name_of
from cse.inference.quantize import Calibration, Kind, require_kinds
from cse.interfaces import Evaluator

Wanted = str | Evaluator | Sequence[str | Evaluator]


def evaluate(
    checkpoint: str | PathLike[str],
    tasks: Wanted | None = None,
    *,
    data: str | None = None,
    device: Device = "auto",
    precision: str = "auto",
    folds: int = transfer.FOLDS,
    check: bool = True,
    progress: bool = False,
    out: str | Path | None = None,
    prompt: str | None = None,
    dimensions: Sequence[int] | None = None,
    quantize: Sequence[Kind] = (),
    calibration: Calibration | None = None,
) -> Scored:
    """Score a checkpoint on STS and transfer tasks, or by evaluators.

    Args:
        checkpoint: A run; or a folder or Hub id of a checkpoint of cse, a SentenceTransformer or a plain model, or an
            export.
        tasks: Names of tasks and groups, separated by commas: sts, sts-mini, STSB-dev, transfer, MR ...; an evaluator,
            such as `cse.evaluation.Retrieval("folder")`; or a list of both. None: sts with `data` or CSE_DATA, else
            sts-mini, which is shipped.
        data: A folder with the rows of the tasks; None: CSE_DATA, then the Hub.
        device: The device to run on: auto, cpu, cuda or mps; `auto` is the accelerator of this machine, or the CPU.
        precision: fp32, bf16, or auto: bf16 where the hardware computes it natively; an evaluator has its own.
        folds: Folds of the transfer tasks that are cross-validated.
        check: Whether to refuse rows that are not the known sets.
        progress: Whether to show a bar while texts are encoded.
        out: The results.json to write, with the arrays of the scores beside it; without any score it is left as it is.
            None: results.json in the folder of a `TrainedRun`, from which the model card takes the scores; for another
            checkpoint, nothing is written.
        prompt: The name of the checkpoint's prompt that is put before every text of a task; an evaluator has its own.
            None: the default prompt, if any.
        dimensions: Widths: everything is scored on the first dimensions of the vectors as well. None: on whole ones
            only.
        quantize: Kinds of quantized vectors: everything is scored on vectors that were quantized, too; see
            `cse.inference.quantize`.
        calibration: The ranges for int8 and uint8. None: those that `cse encode --quantize` saved in the folder.

    Returns:
        The content of results.json as `results`, with the arrays of each score. `missing` in it names the tasks whose
        rows were not found; the average exists only if there are none.

    Raises:
        UserError: A task is unknown, the checkpoint cannot be loaded, rows are malformed, vectors are not finite, they
            do not have as many dimensions, or `out` holds scores of tasks whose rows are missing now.
    """
    quiet()
    if out is None and not isinstance(checkpoint, str | Path):
        out = results.default_out(name_of(checkpoint), requested(tasks, data), prompt)
    out = None if out is None else Path(out)
    require_kinds(quantize)
    require_at_least(2, "evaluation", folds=folds)
    if dimensions is not None:
        widths.check(dimensions, option="--dimensions")
    sts, labeled, evaluators = parted(tasks, data)
    if out:
        check_writable(out)
    start = time.perf_counter()
    rows, missing = read_data(sts, data, check=check) if sts else ({}, {})
    results.require_kept(out, missing)
    reading = time.perf_counter() - start
    start = time.perf_counter()
    model = load_model(name_of(checkpoint), prompt=prompt, device=device)
    loading = time.perf_counter() - start
    reduced, calibration = Reduced(model.encoder, precision), calibration or calibration_for(model.folder, quantize)
    if dimensions is not None:
        widths.check(dimensions, reduced.dim, option="--dimensions")
    outcome = Outcome(sts, {}, {}, {})
    if sts:
        since = time.perf_counter() - reading
        outcome = score_data(
            model.encoder, sts, rows, missing, precision=precision, progress=progress, prompt=prompt, since=since
        )
    start = time.perf_counter()
    findings = [finding for evaluator in evaluators for finding in ask(evaluator, model.encoder).findings]
    require_distinct([*outcome.findings, *findings])
    own = time.perf_counter() - start
    outcome = replace(outcome, requested=requested(tasks, data))
    found = describe.build(outcome, model.as_dict(), resolve_precision(model.encoder, precision), findings=findings)
    if labeled:
        embed = embedder(model.encoder, precision, progress, prompt)
        found |= describe.build_transfer(labeled, data, embed, folds=folds, check=check)
        results.require_kept(out, found["transfer_average"]["missing"])
    again = Rescoring(outcome, evaluators, labeled, data, folds, check, prompt)
    found |= rescored(reduced, again, dimensions, quantize, calibration)
    found["seconds"] = {"load": round(loading, 3), **found["seconds"]}
    if evaluators:
        found["seconds"]["evaluators"] = round(own, 3)
    every = [f for f in [*outcome.findings, *findings] if f.arrays]
    if out and results.has_scores(found):
        results.write(found, out, describe.arrays(every) or None)
    return Scored(model.name, found, {f.name: f for f in every})


def parted(tasks: Wanted | None, data: str | None = None) -> tuple[str, list[str], list[Evaluator]]:
    """The STS tasks, joined by commas, the transfer tasks, and the evaluators that were asked for.

    Raises:
        UserError: A name is unknown, or nothing is named.
    """
    names, evaluators = split_wanted(sources.default_tasks(data) if tasks is None else tasks)
    sts, labeled = transfer.split_names(names)
    if sts or not (labeled or evaluators):
        suite.resolve(sts)  # a misspelled name fails before a model is loaded
    return sts, labeled, evaluators


def split_wanted(wanted: Wanted) -> tuple[str, list[Evaluator]]:
    """The names of tasks, joined by commas, and the evaluators."""
    parts = (
        [wanted] if isinstance(wanted, str | Evaluator) else list(wanted) if isinstance(wanted, Sequence) else [wanted]
    )
    other = [part for part in parts if not isinstance(part, str | Evaluator)]
    if other:
        what = f"tasks: {other[0]!r} is a {type(other[0]).__name__}"
        raise UserError(f"{what}\nfix: give names of tasks, evaluators, or a list of both")
    names = ",".join(part for part in parts if isinstance(part, str))
    return names, [part for part in parts if isinstance(part, Evaluator)]


def requested(wanted: Wanted | None, data: str | None = None) -> str:
    """What was asked for, as results name it: the STS tasks and the names of the evaluators."""
    names, evaluators = split_wanted(sources.default_tasks(data) if wanted is None else wanted)
    labels = [getattr(evaluator, "name", type(evaluator).__name__) for evaluator in evaluators]
    return ",".join(filter(None, [transfer.split_names(names)[0], *labels]))


def run_mteb(
    checkpoint: str | Path,
    tasks: str = "sts",
    out: Path = Path("mteb"),
    *,
    benchmark: str | None = None,
    data: str | None = None,
    device: Device = "auto",
    precision: str = "auto",
    check: bool = True,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Run tasks of MTEB on a checkpoint; each result is kept as soon as it exists, and is not computed again.

    Args:
        checkpoint: A folder or Hub id.
        tasks: Names of MTEB tasks, separated by commas; our names of the seven STS tasks and their groups work, too.
        out: The folder for results; `mteb.json` in it is the summary.
        benchmark: A benchmark of MTEB by name, in place of `tasks`.
        data: A folder with the rows of the STS tasks, which then come from there rather than from the Hub.
        device: The device to run on: auto, cpu, cuda or mps; `auto` is the accelerator of this machine, or the CPU.
        precision: fp32, bf16, or auto: bf16 where the hardware computes it natively.
        check: Whether to refuse rows that are not the known sets.
        overwrite: Whether to run the tasks again that have a result.

    Returns:
        The summary: `tasks` with their main scores, `failed` with the reasons.

    Raises:
        UserError: A task is unknown, the checkpoint cannot be loaded, or mteb is not installed.
    """
    require_package("mteb", extra="mteb", user="cse eval mteb")
    from cse.evaluation import mteb_adapter

    found = mteb_adapter.get_tasks(tasks, benchmark)
    check_writable(out / "mteb.json")
    model = load_model(str(checkpoint), use_prompts=True, device=device)
    for name, prompt in prompts(model.folder).items():
        say("prompt", f"{name}: {prompt!r}")
    return mteb_adapter.run(model, found, out, data=data, precision=precision, check=check, overwrite=overwrite)
