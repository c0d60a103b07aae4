"""Plan what a budget buys: the same for every method, divided among its trials and final runs, in steps.

A budget of time is fair to a user, who pays in time: a method that encodes three views of a row takes fewer steps than
one that encodes two. The seconds are turned into steps once, by the cost that was measured before the search began, so
that all runs of a method have the same length, and a search that is resumed takes the steps that it would have taken.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from cse.errors import UserError

EVALUATIONS = 4  # of each run, after the one before its first step; a trial may be pruned at all but the last
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Budget:
    """Limit what the whole search may spend on training.

    Attributes:
        amount: Seconds, or optimizer steps.
        in_steps: Whether it is a number of steps.
    """

    amount: float
    in_steps: bool = False

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read `30m`, `90s`, `1.5h` or `2000steps`.

        Raises:
            UserError: The text is none of these.
        """
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
    """Measured seconds of a method.

    Attributes:
        start: Seconds up to the end of the evaluation before the first step.
        step: An optimizer step.
        evaluation: An evaluation, with the saving of the state after it.
    """

    start: float
    step: float
    evaluation: float


def divide(budget: Budget, costs: Mapping[str, Cost], runs: int) -> dict[str, int]:
    """Steps of each run of every method, a multiple of `EVALUATIONS`.

    Every method has the same share of the budget, and every run of a method the same part of its share.

    Args:
        budget: The budget of the search.
        costs: What each method costs, by its name.
        runs: Trials and final runs of each method.

    Raises:
        UserError: The part of a run does not suffice for one step between two evaluations.
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
