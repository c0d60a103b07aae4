"""What watches a run: the console."""

from __future__ import annotations

from contextlib import ExitStack

from cse.console import progress, say
from cse.environment import cse_version, git_commit
from cse.training.run import Callback, Run

COLLAPSED = 0.995  # mean cosine of different sentences above which nothing tells them apart
DROP = 5.0  # points below the best dev score
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
    """A progress bar on a terminal, and one line an evaluation anywhere."""

    def __init__(self) -> None:
        self.bar = ExitStack()  # open from on_start to on_end

    def on_start(self, run: Run) -> None:
        """Say what is trained, on what, how, from where."""
        for key, value in header(run):
            say(key, value)
        if run.progress.step:
            say("resume", f"from step {run.progress.step}")
        shown = progress("training", run.max_steps, done=run.progress.step, lines=False)
        self.advance = self.bar.enter_context(shown)

    def on_step(self, run: Run, metrics: dict[str, float]) -> None:
        """Move the bar."""
        self.advance(run.progress.step, f"loss {metrics['loss']:.3f}")

    def on_eval(self, run: Run, metrics: dict[str, float]) -> None:
        """One line of figures, and warnings in words."""
        step, best = run.progress.step, run.progress.best_step
        dev = f"dev {metrics['dev']:.2f}" if "dev" in metrics else ""
        if step == 0:
            say("step     0", f"{dev}   (before training)" if dev else "no evaluator")
            return
        figures = [text.format(metrics[key]) for key, text in FIGURES.items() if key in metrics] + [dev]
        say(f"step {step:5d}/{run.max_steps}", "  ".join(figures) + (" *" if best == step else ""))
        for warning in warnings(run, metrics):
            say("warning", warning)

    def on_end(self, run: Run) -> None:
        """Say what came out, and what to do next."""
        self.bar.close()
        p = run.progress
        if run.interrupted:
            say("stopped", f"at step {p.step}; everything is saved")
            say("next", f"cse train --resume {run.folder}")
            return
        if p.best is not None and p.first is not None:
            say("best", f"step {p.best_step}   dev {p.best:.2f} ({p.best - p.first:+.2f})   {p.seconds:.0f} s")
        say("run", str(run.folder))
        say("next", f"make eval CKPT={run.folder}/best    make push CKPT={run.folder}/best REPO=you/name")


def header(run: Run) -> list[tuple[str, str]]:
    """What a run says of itself before it starts."""
    settings = run.settings
    parts = settings.batch_size // settings.accumulation
    batch = f"{settings.batch_size} rows × {run.max_steps} steps{_negatives(run, parts)}"
    if settings.accumulation > 1:
        batch += f" (of the {parts} rows accumulated together: accumulation adds none)"
    if settings.chunk_size:
        batch += f"; gradients cached, {settings.chunk_size} rows at a time"
    about = f"{cse_version()} · {run.name} · seed {run.seed} · {run.hardware} · git {git_commit() or '-'}"
    return [
        ("cse", about),
        ("data", run.data.describe()),
        ("collator", f"{type(run.collator).__name__}, max {run.collator.max_length} tokens{_truncated(run)}"),
        ("encoder", run.encoder.describe()),
        ("objective", describe_objective(run)),
        ("batch", batch),
        *_draws(run),
    ]


def _draws(run: Run) -> list[tuple[str, str]]:
    """How rows and negatives are drawn, where it is not the default."""
    found = []
    if run.sampler is not None:
        found.append(("sampler", type(run.sampler).__name__))
    if run.negatives is not None:
        miner = type(run.negatives.miner).__name__
        found.append(("negatives", f"{miner}, {run.negatives.k} more a row, mined anew as the encoder learns"))
    return found


def _negatives(run: Run, rows: int) -> str:
    """How many negatives an anchor meets."""
    if not run.objective.contrasts:
        return ""
    example = run.data[0]
    mined = run.negatives.k if run.negatives is not None else 0
    hard = rows * (max(0, len(example.texts) - 1 - example.num_positives) + mined)
    return f"; {rows - 1} in-batch" + (f" and {hard} hard negatives" if hard else " negatives")


def describe_objective(run: Run) -> str:
    """Name and numeric settings of the objective."""
    objective = run.objective
    shown = {k: v for k, v in vars(objective).items() if not k.startswith("_") and isinstance(v, int | float | str)}
    shown.pop("training", None)
    return f"{type(objective).__name__}({', '.join(f'{k}={v}' for k, v in shown.items())})"


def warnings(run: Run, metrics: dict[str, float]) -> list[str]:
    """What a reader should not have to notice in the figures."""
    found = []
    if metrics.get("neg_cos", 0.0) > COLLAPSED:
        found.append(f"collapse: different sentences have a mean cosine of {metrics['neg_cos']:.3f}")
    best = run.progress.best
    if best is not None and metrics.get("dev", best) < best - DROP:
        found.append(
            f"dev is {best - metrics['dev']:.1f} points below its best; best/ keeps step {run.progress.best_step}"
        )
    if metrics.get("skipped", 0) > 0:
        found.append(f"{metrics['skipped']:.0f} rows of the last batch had nothing to compare with and were skipped")
    return found


def _truncated(run: Run) -> str:
    count = run.truncated
    return f" ({count:,} texts cut)" if count else ""
