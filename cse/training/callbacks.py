"""Callbacks that watch a run: the console, the files beside the weights, the check of the training text."""

from __future__ import annotations

import math
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from cse.console import Advance, progress, say
from cse.data import checks
from cse.environment import cse_version, environment, git_commit
from cse.errors import UserError
from cse.files import write_json, write_text
from cse.interfaces import Callback
from cse.recipe import Recipe
from cse.recipe.objects import ROWS
from cse.training.checkpoint import saves_backbone
from cse.training.run import Run
from cse.training.sources import sources, tokenized

COLLAPSED = 0.995  # mean cosine of different sentences above which the vectors have collapsed
SCORING_SHARE = 0.1  # of a run's time; a larger share of dev scoring is said, with the interval that keeps it within
SCORING_FROM = 300.0  # seconds that a run takes for that to be said
DROP = 5.0  # points below the best dev score that cause a warning
FIGURES = {
    "loss": "loss {:.3f}",
    "mlm_accuracy": "mlm acc {:.3f}",
    "pos_cos": "cos {:.2f}",
    "neg_cos": "vs {:.2f}",
    "align": "align {:.2f}",
    "uniform": "uniform {:.2f}",
    "grad_norm": "grad {:.2f}",
    "lr": "lr {:.1e}",
    "sentences_per_s": "{:,.0f} sent/s",
    "peak_mb": "{:,.0f} MB",
}


class Console(Callback):
    """Prints a header, one line per evaluation, and a progress bar if there is a terminal.

    Args:
        chosen: What the recipe chose for a model that it does not name, and why.
    """

    def __init__(self, chosen: str = "") -> None:
        self.chosen = chosen
        self.bar = ExitStack()  # open from on_start to on_end
        self.advance: Advance = lambda done, note="": None
        self.last: float | None = None  # the dev score of the last evaluation
        self.foretold = False  # whether the time of scoring was looked at

    def on_start(self, run: Run) -> None:
        for key, value in header(run, self.chosen):
            say(key, value)
        for warning in start_warnings(run):
            say("warning", warning)
        if run.progress.step:
            say("resume", f"from step {run.progress.step}")
        shown = progress("training", run.max_steps, done=run.progress.step, lines=False)
        self.advance = self.bar.enter_context(shown)

    def on_step(self, run: Run, metrics: dict[str, float]) -> None:
        self.advance(run.progress.step, f"loss {metrics['loss']:.3f}")

    def on_eval(self, run: Run, metrics: dict[str, float]) -> None:
        step, best = run.progress.step, run.progress.best_step
        self.last = metrics.get("dev")
        dev = f"dev {metrics['dev']:.2f}" if "dev" in metrics else ""
        if step == 0:
            say("step     0", f"{dev}   (before training)" if dev else "no evaluator")
            if run.evaluator is not None and run.scoring:
                say("scoring", run.scoring)
            return
        figures = [text.format(metrics[key]) for key, text in FIGURES.items() if key in metrics] + [dev]
        say(f"step {step:5d}/{run.max_steps}", "  ".join(figures) + (" *" if best == step else ""))
        if shown := drawn(run, metrics):
            say("sources", shown)
        for warning in run_warnings(run, metrics):
            say("warning", warning)
        every = run.settings.eval_every
        if not self.foretold and "eval_seconds" in metrics and every is not None:
            self.foretold = True
            each, training = metrics["eval_seconds"], run.max_steps / metrics["steps_per_s"]
            scoring = each * (1 + math.ceil(run.max_steps / every))
            if scoring + training >= SCORING_FROM and scoring > SCORING_SHARE * (scoring + training):
                share = f"{each:.1f} s each time, about {scoring / (scoring + training):.0%} of this run"
                say("scoring", f"{share}; {spacing(each, training, run.max_steps)}")

    def on_end(self, run: Run) -> None:
        self.bar.close()
        p = run.progress
        if run.interrupted:
            say("stopped", f"at step {p.step}; everything is saved")
            say("next", f"cse train --resume {run.folder}")
            return
        if p.best is not None and p.first is not None:
            say("best", f"step {p.best_step}   dev {p.best:.2f} ({p.best - p.first:+.2f})   {p.seconds:.0f} s")
        for warning in end_warnings(run, self.last):
            say("warning", warning)
        say("run", str(run.folder))
        if p.best_step == 0:
            say("next", "a lower --trainer.learning_rate, or other text: --data FILE")
        elif saves_backbone(run):
            say("next", f"sentence vectors on this backbone: cse train simcse-unsup --encoder {run.folder}/best")
        else:
            say("next", f"cse eval {run.folder}/best --tasks sts-mini    cse push {run.folder}/best you/name")


def spacing(each: float, training: float, steps: int) -> str:
    """The interval of evaluations that keeps scoring at a tenth of a run's time, in words.

    One evaluation, of which there is one before the first step, takes `each` seconds, and all steps take `training`.
    """
    most = int(training * SCORING_SHARE / (1 - SCORING_SHARE) / each) - 1 if each else steps
    if most < 1:
        return "an evaluator with fewer texts takes less time"
    return f"--trainer.eval_every={math.ceil(steps / most)} keeps it within {SCORING_SHARE:.0%}"


def header(run: Run, chosen: str = "") -> list[tuple[str, str]]:
    """The lines that a run prints before it starts, each with a key and a text; `chosen` is said of the encoder."""
    single, caching = sources(run).get(""), run.settings.caching
    batch = f"; gradients cached, {caching} at a time" if caching else ""
    lines = [
        ("cse", f"{cse_version()} · {run.name} · seed {run.seed} · {run.hardware} · git {git_commit() or '-'}"),
        ("data", run.data.describe()),
        ("columns", run.data.understood),
    ]
    encoder = [("encoder", run.encoder.describe()), ("chosen", chosen)]
    if single is None:
        lines += [("source", f"{name}: {_of_source(source)}") for name, source in sources(run).items()]
        lines += [*encoder, ("batch", f"{run.max_steps} steps of one source each{batch}")]
    else:
        lines += [
            ("collator", _collator(run)),
            *encoder,
            ("objective", run.objective.describe()),
            ("batch", f"{run.settings.batch_size} rows × {run.max_steps} steps{_negatives(run)}{batch}"),
            ("sampler", type(run.sampler).__name__ if run.sampler is not None else ""),
            ("negatives", run.source.describe()),
        ]
    lines.append(("dev", run.evaluator.describe() if run.evaluator is not None else ""))
    return [(key, text) for key, text in lines if text]


def _of_source(run: Run) -> str:
    """A source of a mixture on one line: rows, share of the steps, batch, objective, and what else is its own."""
    parts = [
        f"{run.data.describe()}, {run.share:.0%} of steps",
        f"{run.settings.batch_size} rows{_negatives(run)}",
        run.objective.describe(),
        _collator(run),
        type(run.sampler).__name__ if run.sampler is not None else "",
        ", ".join(f"{role} {name}" for role, name in run.collator.prompts.items() if name is not None),
    ]
    return " · ".join(part for part in parts if part)


def _collator(run: Run) -> str:
    cut = f" ({run.truncated:,} texts cut)" if run.truncated else ""
    return f"{type(run.collator).__name__}, max {run.collator.max_length} tokens{cut}"


def _negatives(run: Run) -> str:
    """The number of negatives for each anchor, in words."""
    rows, parts = run.settings.batch_size // run.settings.accumulation, run.settings.accumulation
    of_part = f" (among the {rows} rows of a part: accumulation adds none)" if parts > 1 else ""
    if not run.objective.contrasts:
        return of_part
    example = run.data[0]
    hard = rows * (max(0, len(example.texts) - 1 - example.num_positives) + run.source.hard_negatives)
    return f"; {rows - 1} in-batch" + (f" and {hard} hard negatives" if hard else " negatives") + of_part


def drawn(run: Run, metrics: dict[str, float]) -> str:
    """The share of the steps that each source of a mixture had so far, and the share that it is asked to have."""
    names = [name for name in sources(run) if f"drawn_{name}" in metrics]
    shares = [f"{name} {metrics[f'drawn_{name}']:.1%} of {metrics[f'asked_{name}']:.1%}" for name in names]
    return f"drawn: {', '.join(shares)} asked" if shares else ""


def start_warnings(run: Run) -> list[str]:
    """Settings that have no effect in a run of this length, in words."""
    settings, found = run.settings, []
    if settings.warmup_steps >= run.max_steps:
        found.append(
            f"trainer.warmup_steps is {settings.warmup_steps} in a run of {run.max_steps} steps: "
            f"the rate never reaches {settings.learning_rate:g}"
        )
    if run.evaluator is not None and settings.early_stopping is not None:
        evaluations = -(-run.max_steps // (settings.eval_every or run.max_steps))
        if settings.early_stopping >= evaluations:
            found.append(
                f"trainer.early_stopping is {settings.early_stopping} in a run of {evaluations} evaluations: "
                "it never stops the run"
            )
    return found


def end_warnings(run: Run, last: float | None) -> list[str]:
    """Say in words what a finished run has to tell besides its best score, given the `last` dev score."""
    first, best = run.progress.first, run.progress.best_step
    if best == 0:
        return ["best/ is the untrained model, since no step had a better dev score; last/ is the trained one"]
    if first is not None and last is not None and last < first:
        return [
            f"last/ has dev {last:.2f}, below the {first:.2f} before training; best/ is step {run.progress.best_step}"
        ]
    return []


def run_warnings(run: Run, metrics: dict[str, float]) -> list[str]:
    """Signs of trouble in the figures, in words."""
    found = []
    if run.encoder.similarity != "euclidean" and metrics.get("neg_cos", 0.0) > COLLAPSED:
        found.append(f"collapse: different sentences have a mean cosine of {metrics['neg_cos']:.3f}")
    best = run.progress.best
    if best is not None and metrics.get("dev", best) < best - DROP:
        found.append(
            f"dev is {best - metrics['dev']:.1f} points below its best; best/ keeps step {run.progress.best_step}"
        )
    if metrics.get("skipped", 0) > 0:
        found.append(f"{metrics['skipped']:.0f} rows of the last batch had nothing to compare with and were skipped")
    return found


class RunFiles(Callback):
    """Writes recipe, environment and rows from memory beside the weights, and locks the folder."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe = recipe
        self.lock = FileLock(folder / ".lock")

    def on_start(self, run: Run) -> None:
        run.folder.mkdir(parents=True, exist_ok=True)
        try:
            self.lock.acquire(timeout=0)
        except Timeout:
            raise UserError(
                f"run {run.folder} is being trained by another process\n"
                "fix: wait for it, stop it, or give another folder"
            ) from None
        if self.recipe.own is not None:
            say("recipe", str(self.recipe.own))
        if run.progress.step == 0:
            if run.data.in_memory:
                run.data.save_source(run.folder / ROWS)
            about = environment(self.recipe.name, self.recipe.config.seed)
            notes = dict.fromkeys(source.objective.note for source in sources(run).values() if source.objective.note)
            write_json(run.folder / "env.json", about | ({"note": " ".join(notes)} if notes else {}))  # for the card
            # The recipe comes last: it is what makes the folder a run that can be resumed.
            write_text(run.folder / "recipe.yaml", self.recipe.text)

    def on_end(self, run: Run) -> None:
        self.lock.release()


class DataCheck(Callback):
    """Examines the training text at the start of a run, writes the result to its folder, and warns of an overlap."""

    def on_start(self, run: Run) -> None:
        if (run.folder / checks.FILE).exists():
            return  # a resumed run has it
        sets: checks.EvaluationSets = run.evaluator.texts() if isinstance(run.evaluator, checks.KnowsTexts) else {}
        reports = {name: examine(source, sets) for name, source in sources(run).items()}
        write_json(run.folder / checks.FILE, reports.get("") or checks.of_sources(run.data, reports))
        for name, report in reports.items():
            for warning in (*checks.remarks(sources(run)[name].data), *checks.overlap_warnings(report)):
                say("warning", f"{name}: {warning}" if name else warning)


def examine(run: Run, sets: checks.EvaluationSets) -> dict[str, Any]:
    """The check of the text of a run, or of a source of it; see `cse.data.checks.examine`."""
    return checks.examine(run.data, tokenized(run), sets)
