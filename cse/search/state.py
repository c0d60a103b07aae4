"""Keep what a search knows, as search.json in its folder: settings, methods, every trial and every final run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cse.environment import cse_version, git_commit, versions
from cse.errors import UserError
from cse.files import read_sealed, write_sealed
from cse.search.plan import Cost

FILE, SCHEMA = "search.json", 1


@dataclass
class Trial:
    """One setting that was tried.

    Attributes:
        number: Its number among the trials of its method, from 0.
        params: The setting.
        state: running, complete, pruned, or failed if its loss was not finite.
        scores: Its dev scores by step, without the one before the first step.
        seconds: The seconds that it trained.
    """

    number: int
    params: dict[str, float]
    state: str = "running"
    scores: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def value(self) -> float:
        """The best of its scores."""
        return max(self.scores.values())


@dataclass
class Contender:
    """A method in the search.

    Attributes:
        name: Name of its recipe, which is also that of its folder.
        start: The recipe's own setting of what is tuned.
        cost: What it costs.
        steps: Steps of each of its runs.
        trials: Its trials, in their order.
        chosen: The setting of the best trial, once all have ended.
        finals: The best dev score of each final run that has ended, by its seed; None if its loss was not finite.
    """

    name: str
    start: dict[str, float]
    cost: Cost
    steps: int
    trials: list[Trial] = field(default_factory=list)
    chosen: dict[str, float] | None = None
    finals: dict[str, float | None] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Tell whether every trial, or a final run, had a loss that is not finite: the method cannot be compared."""
        trials = bool(self.trials) and all(trial.state == "failed" for trial in self.trials)
        return trials or None in self.finals.values()


@dataclass
class State:
    """A search.

    Attributes:
        data: The training data, as they were given.
        dev: Tasks that select settings and checkpoints.
        dev_data: A folder with the rows of the tasks.
        test: Tasks that only score the final checkpoints; none if empty.
        budget: The budget, as text.
        trials: Trials of each method.
        seeds: Seeds of the final runs.
        overrides: Options that all recipes were given.
        contenders: The methods, in the order in which they are searched.
        left_out: Recipes that were not named and do not fit, with the reasons.
        result: The table and the verdict, once the search has ended.
        about: Versions and commit.
    """

    data: str
    dev: str
    dev_data: str | None
    test: str
    budget: str
    trials: int
    seeds: list[int]
    overrides: list[str]
    contenders: list[Contender] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
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
        """Read search.json.

        Raises:
            UserError: The file does not exist, or is damaged.
        """
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
