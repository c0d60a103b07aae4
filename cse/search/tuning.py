"""Ask which setting to try next, and whether to stop a trial: optuna's answers, from the trials that search.json holds.

Optuna's own storage is not used: a study is made again, in memory, from the trials so far. So there is one record of a
search, and a search that was killed asks the same questions and gets the same answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cse.errors import require_package
from cse.evaluation.reports.collect import records
from cse.interfaces import Callback
from cse.recipe import Recipe
from cse.search.state import Trial
from cse.seeding import derive
from cse.training.run import Run

# The option of each setting that is tuned, and how far from the recipe's own value: divided and multiplied by it.
OPTIONS = {"learning_rate": "trainer.learning_rate", "temperature": "objective.temperature"}
SPAN = {"learning_rate": 5.0, "temperature": 3.0}
RANDOM = 4  # trials before the sampler begins to model the scores
UNPRUNED = 2  # trials that are not pruned, so that there is a median to compare with


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

    Args:
        trials: The trials so far; all have ended.
        start: The recipe's own setting.
        address: What the randomness of the proposal depends on, besides the number of the trial.
    """
    if not trials:
        return dict(start)
    study = _study(trials, start, derive(*address, len(trials)) % 2**32)
    return {name: float(value) for name, value in study.ask(_space(start)).params.items()}


class AsksTrial(Callback):
    """Reports the dev scores of a trial, and ends the run if the trial is worse than the median of those before it.

    Args:
        trials: The trials that have ended.
        start: The recipe's own setting.
        params: The setting of this trial.
    """

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
