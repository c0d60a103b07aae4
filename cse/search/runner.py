"""One method of a search: its trials, then its final runs. What has ended before a kill is not done again.

Optuna says which setting to try next, and whether to stop a trial. Its own storage is not used: a study is made again,
in memory, from the trials so far. So search.json is the one record of a search, and a search that was killed asks the
same questions and gets the same answers.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cse import recipe as recipes
from cse.console import Interrupt, say
from cse.errors import require_package
from cse.evaluation.reports.collect import records
from cse.files import write_text
from cse.interfaces import Callback
from cse.recipe import Recipe
from cse.search.state import EVALUATIONS, Contender, State, Trial
from cse.seeding import derive
from cse.training.run import Run
from cse.training.start import fit, is_begun

RECIPE, CHOSEN = "recipe.yaml", "chosen.yaml"  # in the folder of a method
# The option of each setting that is tuned, and how far from the recipe's own value: divided and multiplied by it.
OPTIONS = {"learning_rate": "trainer.learning_rate", "temperature": "objective.temperature"}
SPAN = {"learning_rate": 5.0, "temperature": 3.0}
RANDOM = 4  # trials before the sampler begins to model the scores
UNPRUNED = 2  # trials that are not pruned, so that there is a median to compare with


class Stopped(Exception):
    """Ctrl-C was pressed, and everything is saved."""


class Runner:
    """Takes one method through its trials and final runs; what has ended before is not done again."""

    def __init__(self, state: State, contender: Contender, folder: Path, interrupt: Interrupt) -> None:
        self.state, self.contender, self.interrupt = state, contender, interrupt
        self.root, self.folder = folder, folder / contender.name

    def run(self) -> None:
        """Run what is left."""
        contender = self.contender
        for number in range(self.state.trials):
            if number == len(contender.trials):
                params = propose(contender.trials, contender.start, self.state.tuning_seed, contender.name)
                contender.trials.append(Trial(number, params))
                self.state.write(self.root)
            if contender.trials[number].state == "running":
                self._try(contender.trials[number])
        if contender.chosen is None:
            complete = [trial for trial in contender.trials if trial.state == "complete"]
            chosen = max(complete, key=lambda trial: trial.value).params if complete else contender.start
            contender.chosen = chosen
            recipe = self._recipe(chosen, self.state.seeds[0])
            about = f"# {contender.name}, as `cse search` chose it on {self.state.dev} for {self.state.data}\n"
            write_text(self.folder / CHOSEN, about + recipe.text)
            self.state.write(self.root)
        for seed in self.state.seeds:
            if str(seed) not in contender.finals and not contender.failed:
                self._finish(seed, contender.chosen)

    def _try(self, trial: Trial) -> None:
        """Train one setting, unless it is pruned, and keep its scores."""
        ended = self.contender.trials[: trial.number]
        asks = AsksTrial(ended, self.contender.start, trial.params)
        folder = self.folder / f"trial-{trial.number}"
        run = self._train(folder, trial.params, self.state.tuning_seed, [asks])
        trial.scores = curve(folder)
        trial.state = "failed" if run is None else "pruned" if asks.pruned else "complete"
        trial.seconds = round(run.progress.seconds, 1) if run else 0.0
        self.state.write(self.root)
        for name in ("best", "last", "state"):  # of a trial, its scores are enough
            shutil.rmtree(folder / name, ignore_errors=True)
        say(f"trial {trial.number + 1}/{self.state.trials}", f"{self._named(trial.params)}   {self._outcome(trial)}")

    def _outcome(self, trial: Trial) -> str:
        """Say how a trial ended; a star marks the best one so far."""
        if trial.state == "failed":
            return "failed: the loss is not finite"
        if trial.state == "pruned":
            return f"pruned at step {max(map(int, trial.scores))}"
        before = [t.value for t in self.contender.trials[: trial.number] if t.state == "complete"]
        return (
            f"dev {trial.value:.2f}{' *' if trial.value > max(before, default=-math.inf) else ''}   {trial.seconds} s"
        )

    def _finish(self, seed: int, params: dict[str, float]) -> None:
        """Train the chosen setting with one seed."""
        folder = self.folder / f"final-s{seed}"
        folder.mkdir(exist_ok=True)
        shutil.copy(self.folder / "data.json", folder)  # the same rows were examined before
        run = self._train(folder, params, seed, [])
        self.contender.finals[str(seed)] = run.progress.best if run else None
        self.state.write(self.root)
        said = "failed: the loss is not finite"
        if run:
            start = "   no step was better than the start" if run.progress.best_step == 0 else ""
            said = f"dev {run.progress.best:.2f}   {run.progress.seconds:.1f} s{start}"
        say(f"seed {seed}", f"{self._named(params)}   {said}")

    def _train(self, folder: Path, params: dict[str, float], seed: int, watchers: Sequence[Callback]) -> Run | None:
        """Train, or resume; None if the loss is not finite."""
        if self.interrupt.wanted:
            raise Stopped
        try:
            run = fit(self._recipe(params, seed), folder, is_resume=is_begun(folder), watchers=watchers)
        except FloatingPointError:
            return None
        if run.interrupted:
            raise Stopped
        return run

    def _recipe(self, params: dict[str, float], seed: int) -> Recipe:
        steps = self.contender.steps
        options = [f"--{OPTIONS[name]}={value!r}" for name, value in params.items()]
        options += [f"--seed={seed}", f"--trainer.max_steps={steps}", f"--trainer.eval_every={steps // EVALUATIONS}"]
        options += ["--trainer.early_stopping=null"]  # it would end runs of one method at different steps
        path = str(self.folder / RECIPE)
        own = recipes.load(path, trusted=None).config.trainer.warmup_steps
        options += [f"--trainer.warmup_steps={min(own, steps // 10)}"]  # of a run that may be shorter than the recipe's
        return replace(
            recipes.load(str(self.folder / RECIPE), options, trusted=None), name=self.contender.name, own=None
        )

    def _named(self, params: dict[str, float]) -> str:
        values = "  ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in params.items())
        return f"{self.contender.name}   {values}"


def optuna() -> Any:
    """The package.

    Raises:
        UserError: Optuna is not installed.
    """
    found = require_package("optuna", extra="search", user="cse search")
    found.logging.set_verbosity(found.logging.WARNING)
    return found


def own_setting(recipe: Recipe) -> dict[str, float]:
    """The recipe's own values of what is tuned: the learning rate, and the temperature if its objective has one."""
    found = {"learning_rate": float(recipe.config.trainer.learning_rate)}
    temperature = vars(recipe.config.objective.init_args).get("temperature")
    return found | ({"temperature": float(temperature)} if isinstance(temperature, int | float) else {})


def propose(trials: Sequence[Trial], start: Mapping[str, float], *address: object) -> dict[str, float]:
    """The setting of the next trial: the recipe's own first, then what the sampler proposes.

    All trials have ended; the proposal depends on `address`, besides the number of the trial.
    """
    if not trials:
        return dict(start)
    study = _study(trials, start, derive(*address, len(trials)) % 2**32)
    return {name: float(value) for name, value in study.ask(_space(start)).params.items()}


class AsksTrial(Callback):
    """Reports the dev scores of a trial, and ends the run if the trial is worse than the median of those before it."""

    def __init__(self, trials: Sequence[Trial], start: Mapping[str, float], params: Mapping[str, float]) -> None:
        self.pruned = False
        study = _study(trials, start, 0)
        study.enqueue_trial(dict(params))
        self.trial = study.ask(_space(start))

    def on_start(self, run: Run) -> None:
        """Report what a resumed trial scored before; it may have been killed after it was told to end."""
        for step, score in curve(run.folder).items():
            if int(step) <= run.progress.step:
                self._report(run, int(step), score)

    def on_eval(self, run: Run, metrics: dict[str, float]) -> None:
        """Report a score, and ask."""
        if run.progress.step > 0:
            self._report(run, run.progress.step, metrics["dev"])

    def _report(self, run: Run, step: int, score: float) -> None:
        self.trial.report(score, step)
        if step < run.max_steps and self.trial.should_prune():
            self.pruned = run.ended = True


def curve(run: Path) -> dict[str, float]:
    """The dev scores of a run by step, without the one before the first step."""
    path = run / "metrics.jsonl"
    found = records(path) if path.is_file() else []
    return {f"{record['step']:.0f}": record["dev"] for record in found if record["step"] > 0}


def _space(start: Mapping[str, float]) -> dict[str, Any]:
    uniform = optuna().distributions.FloatDistribution
    return {name: uniform(value / SPAN[name], value * SPAN[name], log=True) for name, value in start.items()}


def _study(trials: Sequence[Trial], start: Mapping[str, float], seed: int) -> Any:
    """A study in memory that has seen the trials."""
    package, space = optuna(), _space(start)
    states = {name: getattr(package.trial.TrialState, name.upper()) for name in ("complete", "pruned")}
    study = package.create_study(
        direction="maximize",
        sampler=package.samplers.TPESampler(seed=seed, n_startup_trials=RANDOM),
        pruner=package.pruners.MedianPruner(n_startup_trials=UNPRUNED),
    )
    for trial in trials:
        study.add_trial(
            package.trial.create_trial(
                state=states.get(trial.state, package.trial.TrialState.FAIL),
                params=trial.params,
                distributions=space,
                value=trial.value if trial.state in states else None,
                intermediate_values={int(step): score for step, score in trial.scores.items()},
            )
        )
    return study
