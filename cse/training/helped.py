"""The tables that end a run, on a sentence encoder and of a distillation: did it help? And the merged checkpoint."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from itertools import chain, islice
from typing import Any

from cse.console import say
from cse.encoder.kinds import detect
from cse.encoder.model import Encoder
from cse.errors import UserError
from cse.evaluation import before_after, results, scoring, speed, statistic
from cse.evaluation.before_after import DEV, GENERAL, OTHER, SEARCH, Change
from cse.evaluation.encoding import resolve_precision
from cse.evaluation.evaluator import EvalResult, RowEvaluator, chosen
from cse.evaluation.evaluators.sts import STSEvaluator
from cse.evaluation.results import Scored
from cse.files import read_json, write_json
from cse.interfaces import Callback
from cse.objectives.feature_distillation import FeatureDistillation
from cse.teachers.frozen import FrozenEncoder
from cse.training.checkpoint import save, saves_backbone
from cse.training.merge import merge_with_initial
from cse.training.run import Run

TABLE = "helped.json"
BEFORE = "before.json"  # with before.npz: what was scored before training, since only the run begins with that encoder
DISTILLED = "distilled.json"
TEXTS = 512  # texts of the data on which the speed is measured
INITIAL, TRAINED, MERGED = "initial", "trained", "merged"


class Helped(Callback):
    """Scores the encoder before training, writes merged/ after it, and compares; see `trainer.initial_weights`.

    All that the end of the run needs is written at its beginning, so that a resumed run ends with the same table.
    """

    def on_eval(self, run: Run, metrics: dict[str, float]) -> None:
        if metrics["step"] != 0:
            return
        if run.settings.merged_share is not None:
            save(run, INITIAL)
        if not wants_table(run):
            return
        start = time.perf_counter()
        try:
            before = _score(run.encoder, "before", run, run.findings)
        except UserError as error:
            say("warning", f"the run ends without a table, since the general set cannot be scored: {error}")
            return
        seconds = {"before": round(time.perf_counter() - start, 3)}
        about = dict(before.results) | {"seconds": seconds, "parts": _parts(run, before)}
        results.write(about, run.folder / BEFORE, scoring.arrays(before.findings.values()))

    def on_end(self, run: Run) -> None:
        if run.interrupted:
            return
        share, initial = run.settings.merged_share, run.folder / INITIAL
        if share is not None and initial.is_dir():
            trained = run.folder / TRAINED
            save(run, TRAINED, precision=run.settings.save_precision)
            merge_with_initial(initial, trained, run.folder / MERGED, share)
            shutil.rmtree(trained)
            say("merged", f"{run.folder / MERGED} = {share:g} × last/ + {1 - share:g} × the initial weights")
        if (run.folder / BEFORE).is_file() and not (run.folder / TABLE).is_file():
            try:
                _write_table(run)
            except UserError as error:  # the run is complete, with or without its table
                say("warning", f"the scores before and after training cannot be compared: {error}")
        if initial.is_dir():
            shutil.rmtree(initial)  # last: until here a killed run needs it to end the same way


def wants_table(run: Run) -> bool:
    """Tell whether the run ends with a table of scores before and after training."""
    wish = run.settings.initial_weights
    if wish not in {"auto", "mean"}:
        return wish != "ignore"
    return not saves_backbone(run) and detect(run.encoder.source, run.encoder.revision).name == "sentence-transformers"


def checkpoints(run: Run) -> list[str]:
    """The checkpoints to compare: best/, merged/ if it exists, and last/ if it is another and tells something more."""
    progress, has_merged = run.progress, (run.folder / MERGED).is_dir()
    differs = progress.best_step is not None and progress.best_step != progress.step
    names = ["best"]
    names += ["last"] if differs and (has_merged or progress.best_step == 0) else []
    return names + [MERGED] * has_merged


def _write_table(run: Run) -> None:
    """Score the checkpoints of a finished run, one in memory at a time, and compare them with the beginning."""
    start = time.perf_counter()
    before = Scored.read(run.folder / BEFORE)
    after, rows = [], list[Change]()
    for name in checkpoints(run):
        scores, others = _score_checkpoint(run, name, before)
        after.append(scores)
        rows += others
    for part, tasks in before.results["parts"].items():
        rows += before_after.compare_part(part, tasks, before, after) if tasks else []
    order = [model.name for model in after]
    rows.sort(key=lambda row: order.index(row.checkpoint))  # dev stays before the other parts
    found = before_after.warnings(rows)
    seconds = {
        "training": round(run.progress.seconds, 3),
        "before": read_json(run.folder / BEFORE)["seconds"]["before"],
        "after": round(time.perf_counter() - start, 3),
    }
    for key, text in before_after.lines(rows):
        say(key, text)
    for text in before_after.verdicts(rows):
        say("verdict", text)
    for text in found:
        say("warning", text)
    if found and run.settings.initial_weights in {"auto", "compare"}:
        say("", f"--trainer.initial_weights={before_after.MERGE_SHARE:g} also saves an average with the initial ones")
    spent = f"{seconds['before']:.1f} s before and {seconds['after']:.1f} s after"
    say("cost", f"{seconds['training']:.0f} s of training and evaluation; {spent} for this table")
    content = {
        "encoder": run.encoder.source,
        "recipe": run.name,
        "steps": run.progress.step,
        "best_step": run.progress.best_step,
        "merged_share": run.settings.merged_share,
        "bootstrap": {"level": statistic.LEVEL, "resamples": statistic.RESAMPLES, "seed": statistic.SEED},
        "rows": [row.as_dict() for row in rows],
        "warnings": found,
        "seconds": seconds,
    }
    write_json(run.folder / TABLE, content)


def _score_checkpoint(run: Run, name: str, before: Scored) -> tuple[Scored, list[Change]]:
    """Score a checkpoint of the run; the row is that of an evaluator that returns numbers, if there is one."""
    start = name == "best" and run.progress.best_step == 0  # then it is what was scored before training
    encoder = None if start else Encoder.load(str(run.folder / name)).to(run.encoder.device)
    rows, first = [], run.progress.first
    if run.evaluator is not None and not before.results["parts"][DEV] and first is not None:
        key = run.evaluator.primary
        rows.append(Change(name, DEV, key, first, first if encoder is None else run.evaluator(encoder)[key]))
    return replace(before, name=name) if encoder is None else _score(encoder, name, run), rows


def _score(encoder: Encoder, name: str, run: Run, found: Sequence[EvalResult] | None = None) -> Scored:
    """Score an encoder by the run's evaluator, if that says what its scores are made of, and on the general set.

    `found` is what the evaluator has found of this encoder; None: it has not scored it.
    """
    dev = run.evaluator if isinstance(run.evaluator, RowEvaluator) else None
    base = dev if isinstance(dev, STSEvaluator) else STSEvaluator("sts-mini")
    own = found if found is not None else dev.measure(encoder) if dev is not None else []
    found = [finding for finding in own if finding.arrays]
    general = before_after.general_tasks(base.data, apart_from=[finding.name for finding in found])
    if general:  # a run may have been selected on all that this machine has
        found += replace(base, tasks=",".join(general)).measure(encoder)
    found += before_after.general_search().measure(encoder) if find_spec("pytrec_eval") else []
    return before_after.scored(name, found, resolve_precision(encoder, base.precision))


def _parts(run: Run, before: Scored) -> dict[str, list[str]]:
    """The tasks of each part of the table."""
    names = list(before.findings)
    own = [finding for finding in run.findings if finding.arrays]
    dev = chosen(run.evaluator.primary, own) if run.evaluator is not None else []
    other = [finding.name for finding in own if finding.name not in dev]
    search = [name for name in names if name == before_after.SEARCH_SET]
    general = [name for name in names if name not in [*dev, *other, *search]]
    return {DEV: dev, OTHER: other, GENERAL: general, SEARCH: search}


class Distilled(Callback):
    """Compares the student of `FeatureDistillation` with its teacher: dev score, size, and sentences per second.

    distilled.json in the folder of the run has the same numbers. Both encode the same texts, in turn, by the same code.
    """

    def on_end(self, run: Run) -> None:
        teacher = getattr(run.objective, "teacher", None)
        if not isinstance(run.objective, FeatureDistillation) or not isinstance(teacher, FrozenEncoder):
            return
        if run.interrupted or (run.folder / DISTILLED).is_file():
            return
        try:
            old, new = compare(run, teacher)
        except UserError as error:  # the run is complete, with or without its table
            say("warning", f"teacher and student cannot be compared: {error}")
            return
        ratios = {
            "smaller": old["megabytes"] / new["megabytes"],
            "faster": new["sentences_per_s"] / old["sentences_per_s"],
        }
        said = "{smaller:.2f} times smaller, {faster:.2f} times faster".format(**ratios)
        if new["dev"] is not None and old["dev"]:
            ratios["kept"] = new["dev"] / old["dev"]
            said = f"{ratios['kept']:.1%} of the teacher's score, {said}"
        write_json(run.folder / DISTILLED, {"teacher": old, "student": new, **ratios})
        for key, side in (("teacher", old), ("student", new)):
            score = "" if side["dev"] is None else f"dev {side['dev']:.2f}   "
            size, pace = f"{side['megabytes']:.1f} MB", f"{side['sentences_per_s']:,.0f} sentences/s"
            say(key, f"{score}{size}   {pace}   {side['name']}")
        say("distilled", said)


def compare(run: Run, teacher: FrozenEncoder) -> list[dict[str, Any]]:
    """Measure the teacher of a run and its best checkpoint: dev score, if any; weights and speed, both in float32."""
    best = str(run.folder / "best")
    encoders = {teacher.source or run.encoder.source: teacher.loaded(), best: Encoder.load(best)}
    texts = list(islice(chain.from_iterable(example.texts for example in run.data), TEXTS))
    for encoder in encoders.values():
        encoder.to(run.encoder.device)
    encode = {name: partial(encoder.encode, precision="fp32") for name, encoder in encoders.items()}
    speeds = speed.measure(encode, {}, texts, seconds=0)
    return [
        {
            "name": name,
            "dev": None if run.evaluator is None else float(run.evaluator(encoder)[run.evaluator.primary]),
            "megabytes": sum(p.numel() for p in encoder.parameters()) * 4 / 1e6,
            "layers": encoder.depth,
            "dimensions": encoder.dim,
            "sentences_per_s": speeds[name].sentences_per_s,
        }
        for name, encoder in encoders.items()
    ]
