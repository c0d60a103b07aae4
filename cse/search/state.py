"""Keep what a search knows, as search.json in its folder, and divide its budget.

A budget of time is fair to a user, who pays in time: a method that encodes three views of a row takes fewer steps than
one that encodes two. The seconds are turned into steps once, by the cost that was measured before the search began, so
that all runs of a method have the same length, and a search that is resumed takes the steps that it would have taken.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cse.environment import cse_version, git_commit, versions
from cse.errors import UserError
from cse.files import read_sealed, write_sealed

FILE, SCHEMA = "search.json", 1
EVALUATIONS = 4  # of each run, after the one before its first step; a trial may be pruned at all but the last
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Budget:
    """Limit what the whole search may spend on training."""

    amount: float  # seconds, or optimizer steps
    in_steps: bool = False  # whether it is a number of steps

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read `30m`, `90s`, `1.5h` or `2000steps`."""
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|h|steps)", text.strip())
        if found is None or not float(found[1]) > 0:
            raise UserError(
                f"--budget is {text!r}\nfix: give a time such as 90s, 30m or 2h, or steps such as 2000steps"
            )
        if found[2] == "steps":
            return cls(float(found[1]), in_steps=True)
        return cls(float(found[1]) * UNITS[found[2]])

    def __str__(self) -> str:
        """As it may be given."""
        return f"{self.amount:g}steps" if self.in_steps else f"{self.amount:g}s"


@dataclass(frozen=True)
class Cost:
    """Measured seconds of a method."""

    start: float  # seconds up to the end of the evaluation before the first step
    step: float  # an optimizer step
    evaluation: float  # an evaluation, with the saving of the state after it


@dataclass
class Trial:
    """One setting that was tried."""

    number: int  # its number among the trials of its method, from 0
    params: dict[str, float]  # the setting
    state: str = "running"  # running, complete, pruned, or failed if its loss was not finite
    # its dev scores by step, without the one before the first step
    scores: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0  # the seconds that it trained

    @property
    def value(self) -> float:
        """The best of its scores."""
        return max(self.scores.values())


@dataclass
class Contender:
    """A method in the search."""

    name: str  # name of its recipe, which is also that of its folder
    start: dict[str, float]  # the recipe's own setting of what is tuned
    cost: Cost  # what it costs
    steps: int  # steps of each of its runs
    trials: list[Trial] = field(default_factory=list)  # its trials, in their order
    chosen: dict[str, float] | None = None  # the setting of the best trial, once all have ended
    # the best dev score of each final run that has ended, by its seed; None if its loss was not finite
    finals: dict[str, float | None] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Tell whether every trial, or a final run, had a loss that is not finite: the method cannot be compared."""
        trials = bool(self.trials) and all(trial.state == "failed" for trial in self.trials)
        return trials or None in self.finals.values()


@dataclass
class State:
    """A search: what it was asked for, the methods in the order in which they are searched, and what was found."""

    data: str  # the training data, as they were given
    dev: str  # tasks that select settings and checkpoints
    dev_data: str | None  # a folder with the rows of the tasks
    test: str  # tasks that only score the final checkpoints; none if empty
    budget: str  # as text
    trials: int  # of each method
    seeds: list[int]  # of the final runs
    overrides: list[str]  # options that all recipes were given
    contenders: list[Contender] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)  # recipes that do not fit, and were not named; with reasons
    result: dict[str, Any] = field(default_factory=dict)  # the table and the verdict, once the search has ended
    about: dict[str, Any] = field(
        default_factory=lambda: {"schema": SCHEMA, "cse": cse_version(), "git": git_commit(), "versions": versions()}
    )

    @property
    def tuning_seed(self) -> int:
        """The seed of every trial. No final run has it, so that the luck of a trial is not that of a final run."""
        return max(self.seeds) + 1

    def write(self, folder: Path) -> None:
        """Write search.json, completely or not at all."""
        write_sealed(folder / FILE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> State:
        """Read search.json."""
        path = folder / FILE
        if not path.is_file():
            raise UserError(
                f"--resume {folder}: is not a search, since {path} does not exist\n"
                "fix: give the folder that the search printed"
            )
        try:
            content = read_sealed(path)
            contenders = [
                Contender(**{**c, "cost": Cost(**c["cost"]), "trials": [Trial(**t) for t in c["trials"]]})
                for c in content.pop("contenders")
            ]
            return cls(**content, contenders=contenders)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"--resume {folder}: {path} is damaged ({error})\nfix: start the search again") from error


def divide(budget: Budget, costs: Mapping[str, Cost], runs: int) -> dict[str, int]:
    """Steps of each run of every method, a multiple of `EVALUATIONS`.

    Every method has the same share of the budget, and every run of a method the same part of its share. `runs` are the
    trials and final runs of each method.
    """
    each = budget.amount / len(costs) / runs
    steps, least = {}, 0.0
    for name, cost in costs.items():
        fixed = cost.start + EVALUATIONS * cost.evaluation
        bought = each if budget.in_steps else (each - fixed) / cost.step
        steps[name] = int(bought // EVALUATIONS) * EVALUATIONS
        least = max(least, EVALUATIONS if budget.in_steps else fixed + EVALUATIONS * cost.step)
    short = [name for name, taken in steps.items() if taken < EVALUATIONS]
    if short:
        enough = Budget(math.ceil(least * len(costs) * runs), budget.in_steps)
        unit = "steps" if budget.in_steps else "s"
        raise UserError(
            f"--budget {budget} is too small: {len(costs)} recipes of {runs} runs have {each:.3g} {unit} a run, "
            f"and the shortest run of {short[0]} takes {least:.3g} {unit}\n"
            f"fix: give --budget {enough} or more, fewer recipes, fewer --trials or fewer --seeds"
        )
    return steps
