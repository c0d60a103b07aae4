"""The engine of scores: from a checkpoint and evaluators to results.json. `cse eval CHECKPOINT` and `cse eval mteb`."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np

from cse.console import quiet, say
from cse.encoder.device import Device
from cse.encoder.vectors import check_widths, unit
from cse.environment import versions
from cse.errors import UserError, require_at_least, require_known, require_package
from cse.evaluation import results, statistic
from cse.evaluation.encoding import Change, Reduced, resolve_precision
from cse.evaluation.evaluator import Answer, EvalResult, require_distinct, resampled, run_evaluator
from cse.evaluation.evaluators import sts_rows, transfer
from cse.evaluation.evaluators.sts import STSEvaluator
from cse.evaluation.evaluators.transfer import Transfer
from cse.evaluation.loading import load_model, prompts
from cse.evaluation.results import Scored
from cse.evaluation.statistic import Vector
from cse.files import check_writable, name_of
from cse.inference.quantize import FILE, Calibration, Kind, needs_calibration, rendered
from cse.interfaces import Evaluator

PACKAGES = ("torch", "transformers", "sentence-transformers", "numpy", "scipy")
UNIT = 1e-3  # vectors whose lengths differ from 1 by less, on average, are scaled again after a cut
KIND = transfer.KIND

Wanted = str | Evaluator | Sequence[str | Evaluator]


def evaluate(
    checkpoint: str | PathLike[str],
    tasks: Wanted | None = None,
    *,
    data: str | None = None,
    device: Device = "auto",
    precision: str = "auto",
    folds: int = 10,
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
        checkpoint: A run; a folder or Hub id of a checkpoint of cse, a SentenceTransformer or a plain model, or an
            export.
        tasks: Names of tasks and groups, separated by commas: sts, sts-mini, STSB-dev, transfer, MR ...; an evaluator,
            such as `cse.evaluation.Retrieval("folder")`; or a list of both. None: sts with `data` or CSE_DATA, else
            sts-mini, which is shipped.
        data: A folder with the rows of the tasks; None: CSE_DATA, then the Hub.
        device: See `cse.encoder.device`.
        precision: fp32, bf16, or auto: bf16 where the hardware computes it natively; an evaluator has its own.
        folds: Folds of transfer tasks that are cross-validated; SentEval's quick: 5.
        check: Whether to refuse rows that are not the known sets.
        progress: Whether to show a bar while texts are encoded.
        out: The results.json to write, with the arrays of the scores beside it; without any score it is left as it is.
            None: that of the run of the checkpoint, from which the model card takes the scores; in Python only if a
            `TrainedRun` is given.
        prompt: Prompt of the checkpoint before every text of a task; an evaluator has its own. None: its default
            prompt.
        dimensions: Score the first N dimensions of the vectors as well: 256,64. None: whole vectors only.
        quantize: Score quantized vectors as well: int8, uint8, binary or ubinary; see `cse.quantize`.
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
        out = results.default_out(name_of(checkpoint), parted(tasks, data).requested, prompt)
    out = None if out is None else Path(out)
    require_known("--quantize", quantize, get_args(Kind))
    require_at_least(2, "evaluation", folds=folds)
    if dimensions is not None:
        check_widths(dimensions, option="--dimensions")
    asked = parted(tasks, data)
    if out:
        check_writable(out)
    times = [time.perf_counter()]
    options: dict[str, Any] = {"precision": precision, "prompt": prompt, "check": check, "progress": progress}
    sts = STSEvaluator.of_found(asked.sts, data, **options) if asked.sts else None
    labeled = Transfer(asked.transfer, data, folds=folds, **options) if asked.transfer else None
    missing = sts.missing if sts else {}
    results.require_kept(out, missing | (labeled.missing if labeled else {}))
    times.append(time.perf_counter())
    model = load_model(name_of(checkpoint), prompt=prompt, device=device)
    calibration = calibration or calibration_for(model.folder, quantize)
    encoder = model.encoder if dimensions is None and not quantize else Reduced(model.encoder)
    dim = 0 if dimensions is None else _dim(encoder)
    if dimensions is not None:
        check_widths(dimensions, dim, option="--dimensions")
    times.append(time.perf_counter())
    evaluators = [*([sts] if sts else []), *asked.own, *([labeled] if labeled else [])]
    answers = [run_evaluator(evaluator, encoder) for evaluator in evaluators]
    times.append(time.perf_counter())
    found = describe(
        answers,
        model=model.as_dict(),
        precision=resolve_precision(model.encoder, precision),
        requested=asked.requested,
        missing=missing,
        transfer=None if labeled is None else labeled.missing,
    )
    if isinstance(encoder, Reduced):
        cuts = sorted({*dimensions, dim}, reverse=True) if dimensions is not None else []
        if cuts:
            each = [({"width": width}, first_dimensions(width)) for width in cuts]
            found["dimensions"] = rescored(encoder, evaluators, each, complete=not missing)
        if quantize:
            each = list(_codes(quantize, calibration, _dim(encoder)))
            found["quantized"] = rescored(encoder, evaluators, each, complete=not missing)
    read, load, score, told = np.diff([*times, time.perf_counter()]).round(3).tolist()
    found["seconds"] = {"load": load, "read": read, "score": score, "describe": told}
    every = [finding for answer in answers for finding in answer.findings if finding.arrays]
    if out and results.has_scores(found):
        results.write(found, out, arrays(every) or None)
    return Scored(model.name, found, {finding.name: finding for finding in every})


class Asked(NamedTuple):
    """Hold what is to be scored."""

    sts: str  # the STS tasks, joined by commas
    transfer: list[str]  # the transfer tasks
    own: list[Evaluator]  # the evaluators

    @property
    def requested(self) -> str:
        """List what was asked for, as results name it: the STS tasks and the names of the evaluators."""
        labels = [getattr(evaluator, "name", type(evaluator).__name__) for evaluator in self.own]
        return ",".join(filter(None, [self.sts, *labels]))


def parted(wanted: Wanted | None, data: str | None = None) -> Asked:
    """Sort what is to be scored by its kind; see `evaluate`."""
    wanted = sts_rows.default_tasks(data) if wanted is None else wanted
    parts = [wanted] if isinstance(wanted, str) or not isinstance(wanted, Sequence) else list(wanted)
    for part in parts:
        if not isinstance(part, str | Evaluator):
            what = f"tasks: {part!r} is a {type(part).__name__}"
            raise UserError(f"{what}\nfix: give names of tasks, evaluators, or a list of both")
    names, labeled = transfer.split_names(",".join(part for part in parts if isinstance(part, str)))
    asked = Asked(names, labeled, [part for part in parts if isinstance(part, Evaluator)])
    if names or not (labeled or asked.own):
        sts_rows.resolve(names)  # a misspelled name fails before a model is loaded
    return asked


def describe(
    answers: Sequence[Answer],
    *,
    model: Mapping[str, Any],
    precision: str,
    requested: str,
    missing: Mapping[str, str] | None = None,
    transfer: Mapping[str, str] | None = None,
    resamples: int = statistic.RESAMPLES,
) -> dict[str, Any]:
    """The content of results.json, as the module `results` describes it.

    `missing` and `transfer` say why a requested task has no score; `transfer` is None if no such task was asked for.

    Raises:
        UserError: Two sets of rows have the same name.
    """
    every = [finding for answer in answers for finding in answer.findings]
    require_distinct(every)
    findings = [finding for finding in every if finding.kind != KIND]
    samples = {
        finding.name: {name: resampled([finding], name, resamples)[0] for name in finding.measures}
        if resamples and finding.arrays
        else {}
        for finding in findings
    }
    entries, facts = {finding.name: _entry(finding, samples[finding.name]) for finding in findings}, dict[str, Any]()
    for answer in answers:
        more = answer.facts()
        for name, details in more.pop("tasks", {}).items():
            entries[name] |= details
        facts |= more
    found = {
        "schema": results.SCHEMA,
        "model": dict(model),
        "tasks": entries,
        "average": {"requested": requested, **_average(findings, entries, missing or {}, samples)},
        "missing": dict(missing or {}),
        "geometry": facts.get("geometry"),
        "bootstrap": {"level": statistic.LEVEL, "resamples": resamples, "seed": statistic.SEED},
        "precision": precision,
        "sentences": facts.get("sentences", {"total": 0, "unique": 0}),
        "seconds": {},
        "versions": versions(PACKAGES),
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
    if transfer is None:
        return found
    scored = {finding.name: dict(finding.about) for finding in every if finding.kind == KIND}
    mean = sum(task["accuracy"] for task in scored.values()) / len(scored) if scored and not transfer else None
    return found | {"transfer": scored, "transfer_average": {"accuracy": mean, "missing": dict(transfer)}}


def arrays(findings: Iterable[EvalResult]) -> dict[str, Vector]:
    """Name the arrays that the scores are computed from: `<TASK>/<ARRAY>`."""
    return {
        f"{f.name}/{name}": f.arrays[name]
        for f in findings
        for name in dict.fromkeys(name for measure in f.measures.values() for name in measure.of)
    }


def _entry(finding: EvalResult, samples: Mapping[str, Vector]) -> dict[str, Any]:
    measures = {
        name: {
            "value": measure.value,
            "interval": statistic.interval(samples[name]) if name in samples else None,
            "statistic": measure.statistic,
            "of": list(measure.of),
        }
        for name, measure in finding.measures.items()
    }
    return {
        "kind": finding.kind,
        "metric": finding.primary,
        "value": finding.value,
        "interval": measures[finding.primary]["interval"],
        "n": finding.n,
        "unit": finding.unit,
        "measures": measures,
        "data": {"where": finding.where, "sha256": finding.sha256},
        "about": dict(finding.about),
    }


def _mean(findings: Sequence[EvalResult], complete: bool) -> float | None:
    """The mean of the scores; None if a task is missing, or the tasks have different metrics."""
    same = complete and len({finding.primary for finding in findings}) == 1
    return sum(finding.value for finding in findings) / len(findings) if same else None


def _average(
    findings: Sequence[EvalResult],
    entries: Mapping[str, Mapping[str, Any]],
    missing: Mapping[str, str],
    samples: Mapping[str, Mapping[str, Vector]],
) -> dict[str, Any]:
    metrics, value = {finding.primary for finding in findings}, _mean(findings, not missing)
    drawn = [samples[f.name][f.primary] for f in findings if f.primary in samples[f.name]]
    known = value is not None and len(drawn) == len(findings)
    found = {
        "metric": next(iter(metrics)) if len(metrics) == 1 else None,
        "value": value,
        "interval": statistic.interval(np.mean(drawn, axis=0)) if known else None,
        "missing": list(missing),
    }
    if any("all" not in entry for entry in entries.values()):  # not of STS tasks only
        return found
    mean: dict[str, float | None] = {"spearman": value, "pearson": None, "rounded": None}
    if value is not None:
        mean["pearson"] = sum(entry["all"]["pearson"] for entry in entries.values()) / len(findings)
        mean["rounded"] = round(sum(round(f.value, 2) for f in findings) / len(findings), 2)
    return found | {"all": mean}


def rescored(
    encoder: Reduced,
    evaluators: Sequence[Evaluator],
    changes: Sequence[tuple[Mapping[str, Any], Change]],
    *,
    complete: bool,
) -> list[dict[str, Any]]:
    """The scores of changed vectors, as entries of results.json.

    `changes` are what an entry begins with, and the change of the vectors; `complete` says whether tasks have an
    average.
    """
    entries = []
    for about, encoder.change in changes:
        entry: dict[str, Any] = {"tasks": {}, "average": None}
        try:
            findings = [f for evaluator in evaluators for f in run_evaluator(evaluator, encoder).findings]
            own = [finding for finding in findings if finding.kind != KIND]
            entry = {"tasks": {finding.name: finding.value for finding in own}, "average": _mean(own, complete)}
            if any(isinstance(evaluator, Transfer) for evaluator in evaluators):
                entry["transfer"] = {finding.name: finding.value for finding in findings if finding.kind == KIND}
        except UserError as error:  # whole vectors have scores, so the change makes all of them alike
            entry["undefined"] = str(error).splitlines()[0]
        entries.append({**about, **entry})
    encoder.change = None
    return entries


def first_dimensions(width: int) -> Change:
    """The first `width` dimensions; vectors that were of unit length are scaled to it again."""

    def cut(whole: Any) -> Any:
        scales = np.abs(np.linalg.norm(whole, axis=1) - 1).mean() < UNIT
        return unit(whole[:, :width]) if scales else whole[:, :width]

    return cut


def _codes(kinds: Sequence[Kind], calibration: Calibration | None, dim: int) -> Iterable[tuple[dict[str, Any], Change]]:
    """Vectors as they are, then those of each kind.

    The vectors that a calibration is of are cut and scaled as it was measured, for all kinds and for the first entry.
    """
    size = dim if calibration is None else len(calibration.low)
    scales = calibration is not None and bool(calibration.made_from.get("normalize"))

    def change(kind: Kind | None) -> Change:
        def changed(whole: Any) -> Any:
            cut = unit(whole[:, :size]) if scales else whole[:, :size]
            return cut if kind is None else rendered(cut, kind, calibration)

        return changed

    yield {"kind": "float32", "bytes": 4 * size}, change(None)
    for kind in kinds:
        yield {"kind": kind, "bytes": size if needs_calibration(kind) else -(-size // 8)}, change(kind)


def calibration_for(folder: Path, kinds: Sequence[Kind]) -> Calibration | None:
    """The calibration that lies in the folder of a model; None if there is none, and no kind needs it."""
    if (folder / FILE).is_file():
        return Calibration.read(folder / FILE)
    for kind in filter(needs_calibration, kinds):
        raise UserError(
            f"--quantize {kind} needs the ranges of the dimensions, and {folder / FILE} does not exist\n"
            f"fix: cse encode {folder} TEXTS --quantize {kind} --out v.npy measures and saves them"
        )
    return None


def _dim(encoder: Reduced) -> int:
    """D, the size of a whole vector."""
    return int(encoder.encode(["a"]).shape[1])


def run_mteb(
    checkpoint: str | Path,
    tasks: str,
    out: Path,
    *,
    benchmark: str | None = None,
    data: str | None = None,
    device: Device = "auto",
    precision: str = "auto",
    check: bool = True,
) -> dict[str, Any]:
    """Run tasks of MTEB on a checkpoint; each result is kept as soon as it exists, and is not computed again.

    Args:
        checkpoint: Folder or Hub id.
        tasks: Names of MTEB tasks, separated by commas; our names of the seven STS tasks and their groups work, too.
        out: Folder for results; mteb.json in it is the summary.
        benchmark: Name of a benchmark, such as "MTEB(eng, v2)", in place of --tasks.
        data: A folder with the rows of the STS tasks, which then come from there rather than from the Hub.
        device: See `cse.encoder.device`.
        precision: fp32, bf16 or auto.
        check: Whether to refuse rows that are not the known sets.

    Returns:
        The summary: `tasks` with their main scores, `failed` with the reasons.

    Raises:
        UserError: A task is unknown, the checkpoint cannot be loaded, or mteb is not installed.
    """
    require_package("mteb", extra="mteb", user="cse eval mteb")
    from cse.evaluation.evaluators import mteb_adapter

    found = mteb_adapter.get_tasks(tasks, benchmark)
    check_writable(out / "mteb.json")
    model = load_model(str(checkpoint), use_prompts=True, device=device)
    for name, prompt in prompts(model.folder).items():
        say("prompt", f"{name}: {prompt!r}")
    return mteb_adapter.run(model, found, out, data=data, precision=precision, check=check)
