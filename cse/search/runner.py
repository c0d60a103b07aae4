"""One method of a search: its trials, then its final runs. What has ended before a kill is not done again."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cse import recipe as recipes
from cse.console import Interrupt, say
from cse.files import write_text
from cse.interfaces import Callback
from cse.recipe import Recipe
from cse.search.plan import EVALUATIONS
from cse.search.state import Contender, State, Trial
from cse.search.tuning import OPTIONS, AsksTrial, curve, propose
from cse.training.run import Run
from cse.training.start import fit, is_begun

RECIPE, CHOSEN = "recipe.yaml", "chosen.yaml"  # in the folder of a method


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
