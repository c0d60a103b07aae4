"""What watches a run: the console."""

from __future__ import annotations

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cse import __version__
from cse.training.environment import git_commit
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

    def __init__(self, console: RichConsole | None = None) -> None:
        self.console = console or RichConsole(highlight=False, soft_wrap=True)
        self.bar: Progress | None = None

    def on_start(self, run: Run) -> None:
        """Say what is trained, on what, how, from where."""
        for key, value in header(run):
            self._line(key, value)
        if run.progress.step:
            self._line("resume", f"from step {run.progress.step}")
        if self.console.is_terminal and not run.progress.finished:
            columns = (
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[loss]}"),
            )
            self.bar = Progress(*columns, console=self.console, transient=True)
            self.task = self.bar.add_task("", total=run.max_steps, completed=run.progress.step, loss="")
            self.bar.start()

    def on_step(self, run: Run, metrics: dict[str, float]) -> None:
        """Move the bar."""
        if self.bar is not None:
            self.bar.update(self.task, completed=run.progress.step, loss=f"loss {metrics['loss']:.3f}")

    def on_eval(self, run: Run, metrics: dict[str, float]) -> None:
        """One line of figures, and warnings in words."""
        step, best = run.progress.step, run.progress.best_step
        dev = f"dev {metrics['dev']:.2f}" if "dev" in metrics else ""
        if step == 0:
            self._line("step     0", f"{dev}   (before training)" if dev else "no evaluator")
            return
        figures = [text.format(metrics[key]) for key, text in FIGURES.items() if key in metrics] + [dev]
        self._line(f"step {step:5d}/{run.max_steps}", "  ".join(figures) + (" *" if best == step else ""))
        for warning in warnings(run, metrics):
            self._line("warning", warning)

    def on_end(self, run: Run) -> None:
        """Say what came out, and what to do next."""
        if self.bar is not None:
            self.bar.stop()
        p = run.progress
        if run.interrupted:
            self._line("stopped", f"at step {p.step}; everything is saved")
            self._line("next", f"cse train --resume {run.folder}")
            return
        if p.best is not None and p.first is not None:
            self._line("best", f"step {p.best_step}   dev {p.best:.2f} ({p.best - p.first:+.2f})   {p.seconds:.0f} s")
        self._line("run", str(run.folder))
        self._line("next", f"make eval CKPT={run.folder}/best    make push CKPT={run.folder}/best REPO=you/name")

    def _line(self, key: str, text: str) -> None:
        self.console.print(f"{key:10s} {text}", markup=False)


def header(run: Run) -> list[tuple[str, str]]:
    """What a run says of itself before it starts."""
    settings = run.settings
    parts = settings.batch_size // settings.accumulation
    batch = f"{settings.batch_size} rows × {run.max_steps} steps{_negatives(run, parts)}"
    if settings.accumulation > 1:
        batch += f" (of the {parts} rows accumulated together: accumulation adds none)"
    if settings.chunk_size:
        batch += f"; gradients cached, {settings.chunk_size} rows at a time"
    about = f"{__version__} · {run.name} · seed {run.seed} · {run.hardware} · git {git_commit() or '-'}"
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
