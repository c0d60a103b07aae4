"""The search: measure, try settings, train the chosen one with every seed, score, compare. What `cse search` does."""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from cse import recipe as recipes
from cse.console import Interrupt, say
from cse.data import checks
from cse.data.datasets import ScoredPairs, Texts, Triplets
from cse.data.reading.columns import of_pairs, of_texts, of_triplets, score_column_of
from cse.data.reading.rows import Reader
from cse.data.reading.sources import open_path
from cse.errors import UserError, require_at_least
from cse.evaluation.evaluators.sts import read_data
from cse.evaluation.recognize import own_rows
from cse.files import check_writable, write_text
from cse.interfaces import Callback
from cse.recipe import Recipe
from cse.recipe.settings import Settings
from cse.search.report import Line, Verdict, conclude
from cse.search.runner import RECIPE, Runner, Stopped, optuna, own_setting
from cse.search.state import FILE, Budget, Contender, Cost, State, divide
from cse.training import hardware
from cse.training.callbacks import DataCheck
from cse.training.run import Run
from cse.training.start import fit

STEPS = 4  # that are timed; the first is left out, since libraries prepare themselves in it


@dataclass(frozen=True)
class Search:
    """Hold what a search found."""

    folder: Path  # its folder; search.json, table.md and the runs lie in it
    table: Sequence[Line] = ()  # the rows of the table, from high to low; empty if the search was interrupted
    verdict: Verdict | None = None  # what follows from it
    # the recipe of the method to take, for `cse train`; None if the untrained encoder does as well
    recipe: Path | None = None
    interrupted: bool = False  # whether Ctrl-C stopped it


def search(
    names: Sequence[str] = (),
    *,
    data: str,
    encoder: str | None = None,
    dev: str = "sts-mini-dev",
    dev_data: str | None = None,
    test: str = "",
    budget: str = "30m",
    trials: int = 6,
    seeds: int = 3,
    overrides: Sequence[str] = (),
    folder: Path | None = None,
) -> Search:
    """Find the method for a text: train several under one budget, tune each, and compare them.

    Args:
        names: Recipes, by name or path. None: those of the package that fit the columns of the data.
        data: The training data: a file, `asset:NAME` or a Hub id.
        encoder: The model to train. None: that of each recipe.
        dev: STS tasks, or a path of rows of your own, that select settings and checkpoints.
        dev_data: Folder with the rows of `dev` and `test`. None: CSE_DATA, the Hub, or the shipped sets.
        test: STS tasks or rows that only score the final checkpoints.
        budget: What all training may cost: 90s, 45m, 2h, or 2000steps. Each method has the same share. Measuring before
            and scoring final checkpoints after are not part of it.
        trials: Settings tried per recipe; the first is the recipe's own. 0: the recipe's own is taken.
        seeds: Final runs of each recipe, with its seed and the ones after it.
        overrides: Further options for all recipes, such as `--trainer.batch_size=32`.
        folder: Folder to write. None: runs/search/TIME.

    Returns:
        The table and the verdict; `interrupted` says whether Ctrl-C stopped the search, which `resume` continues.
    """
    _require(budget, trials, seeds)
    folder = folder or Path("runs/search") / f"{datetime.now():%Y%m%d-%H%M%S}"
    check_writable(folder, "--run-dir", kind="folder")
    if (folder / FILE).exists():
        raise UserError(f"{folder} holds a search already\nfix: cse search --resume {folder}, or another --run-dir")
    evaluator = _scoring_options("--dev", dev, dev_data)
    if test:
        _scoring_options("--test", test, dev_data)
    model = [f"--encoder={encoder}"] if encoder else []
    overrides = [*model, *overrides]
    options = [f"--data.path={data}", *evaluator, *overrides]
    found, left_out = load(names, data, options)
    of_runs = [found[0].config.seed + i for i in range(seeds)]
    state = State(data, dev, dev_data, test, budget, trials, of_runs, overrides, left_out=left_out)
    with tempfile.TemporaryDirectory() as scratch:
        for recipe in found:
            try:
                contender = _measured(recipe, Path(scratch, recipe.name))
            except UserError as error:
                if names:
                    raise
                left_out[recipe.name] = str(error).splitlines()[0]
                continue
            if contender is None:
                say("stopped", "before the search began; nothing is written")
                return Search(folder, interrupted=True)
            state.contenders.append(contender)
        if not state.contenders:
            raise UserError(f"no recipe can be trained: {next(iter(left_out.values()))}\nfix: name a recipe")
        costs = {contender.name: contender.cost for contender in state.contenders}
        steps = divide(Budget.parse(budget), costs, trials + seeds)
        for contender in state.contenders:
            contender.steps = steps[contender.name]
            shutil.copytree(Path(scratch, contender.name), folder / contender.name, dirs_exist_ok=True)
    state.write(folder)  # last: it is what makes the folder a search that can be resumed
    return resume(folder)


def resume(folder: Path) -> Search:
    """Continue a search that was interrupted or killed; see `search`. One that has ended prints its table again.

    Args:
        folder: The folder of the search.

    Raises:
        UserError: The folder does not hold a search, or another process runs it.
    """
    state = State.read(folder)
    _header(state, folder)
    try:
        with FileLock(folder / ".lock", timeout=0), Interrupt() as interrupt:
            for contender in state.contenders:
                Runner(state, contender, folder, interrupt).run()
            return Search(folder, *conclude(state, folder, interrupt))
    except Timeout:
        raise UserError(f"search {folder} is being run by another process\nfix: wait for it, or stop it") from None
    except Stopped:
        say("stopped", "everything is saved")
        say("next", f"cse search --resume {folder}")
        return Search(folder, interrupted=True)


def _require(budget: str, trials: int, seeds: int) -> None:
    require_at_least(0, "search", trials=trials)
    require_at_least(1, "search", seeds=seeds)
    Budget.parse(budget)
    if trials:
        optuna()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("cse search runs in one process\nfix: start it without accelerate launch or torchrun")


def _scoring_options(option: str, tasks: str, data: str | None) -> list[str]:
    """The options of the evaluator for tasks or for a path of rows, which must be there."""
    own = own_rows(option, tasks)
    if own is not None:
        say(option.removeprefix("--"), own.said)
        return own.overrides()
    missing = read_data(tasks, data)[1]
    for name, reason in missing.items():
        raise UserError(f"{option}: no data for {name}: {reason}\nfix: give --dev-data DIR or set CSE_DATA")
    options = ["--evaluator=cse.evaluation.STSEvaluator", f"--evaluator.tasks={tasks}"]
    return [*options, f"--evaluator.data={data}"] if data else options


def _measured(recipe: Recipe, keep: Path) -> Contender | None:
    for problem in hardware.problems(Settings(**vars(recipe.config.trainer))):
        raise UserError(problem)
    say("measuring", recipe.name)
    if recipe.chosen:
        say("chosen", recipe.chosen)
    cost = measure(recipe, keep)
    content = yaml.safe_load(recipe.text)
    content.pop("expect", None)  # the scores of another text say nothing about this one
    write_text(keep / RECIPE, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    return None if cost is None else Contender(recipe.name, own_setting(recipe), cost, steps=0)


def _header(state: State, folder: Path) -> None:
    say("search", f"{len(state.contenders)} methods, budget {state.budget} for all, dev {state.dev}; {folder}")
    for name, reason in state.left_out.items():
        say("left out", f"{name}: {reason}")
    for c in state.contenders:
        cost = f"{c.cost.step:.3g} s a step, {c.cost.evaluation:.3g} s an evaluation, {c.cost.start:.3g} s to start"
        say("plan", f"{c.name}   {state.trials} trials and {len(state.seeds)} seeds of {c.steps} steps   {cost}")


def load(names: Sequence[str], data: str, overrides: Sequence[str]) -> tuple[list[Recipe], dict[str, str]]:
    """The recipes to search.

    Without `names`, they are the recipes of the package, those in paper/ aside, that have an evaluator and read columns
    that the data have.

    Returns:
        The recipes, and why others do not fit, if no names were given.
    """
    source = open_path(data)
    found, left_out = [], {}
    for name in names or [n for n in recipes.names() if "/" not in n]:
        try:
            if not names and "evaluator" not in recipes.read(recipes.find(name)):
                continue  # it trains no sentence vectors, such as masked-LM pretraining
            found.append(_fitting(recipes.load(name, overrides), source))
        except UserError as error:
            if names:
                raise
            left_out[name] = str(error).splitlines()[0]
    if not found:
        raise UserError(
            f"no recipe fits {data}: {next(iter(left_out.values()))}\n"
            "fix: name recipes, or the columns: --data.columns=[a,b], --data.column=a for texts"
        )
    twice = {r.name for r in found if [other.name for other in found].count(r.name) > 1}
    if twice:
        raise UserError(f"two recipes have the name {twice.pop()}\nfix: rename the file of one")
    return found, left_out


def _asked(recipe: Recipe, source: Reader) -> list[int | str]:
    """The columns that a recipe reads: those that it names, or those that its data class recognizes."""
    options, kind = vars(recipe.config.data.init_args), recipe.config.data.built_as
    scores = options.get("score_column")
    if issubclass(kind, Texts):
        shape = of_texts(source, options.get("column"))
    elif issubclass(kind, Triplets):
        shape = of_triplets(source, options.get("columns"))
    else:
        shape = of_pairs(source, options.get("columns"), lists=not issubclass(kind, ScoredPairs))
    if issubclass(kind, ScoredPairs):
        scores = score_column_of(source, scores).name
    texts = [column.name for column in shape.saved or shape.texts]
    return [*texts, *(name for name in (scores, options.get("label_column")) if name is not None)]


def _fitting(recipe: Recipe, source: Reader) -> Recipe:
    """The recipe, if the data have the columns that it reads. A file of lines has one column, whatever its name."""
    there, asked = source.names() or [], _asked(recipe, source)
    absent = [c for c in asked if (c >= len(there) if isinstance(c, int) else c not in there)]
    if absent if there else asked[1:]:
        have = f"the columns {', '.join(there)[:120]}" if there else "one text a line"
        raise UserError(
            f"recipe {recipe.name} reads {', '.join(map(str, asked))}, but {source.what} has {have}\n"
            "fix: name a recipe that fits, or the columns: --data.columns=[a,b], --data.column=a for texts"
        )
    return recipe


class _Stopwatch(Callback):
    """Times the parts of a run, and keeps its encoder as it was before the first step."""

    def __init__(self, untrained: Path) -> None:
        self.began, self.untrained = time.perf_counter(), untrained
        self.start, self.evaluation = 0.0, 0.0
        self.ends: list[float] = []

    def on_step(self, run: Run, metrics: dict[str, float]) -> None:
        """Note the end of a step."""
        self.ends.append(time.perf_counter())

    def on_eval(self, run: Run, metrics: dict[str, float]) -> None:
        """Note how long it took to get here."""
        if run.progress.step == 0:
            self.start = time.perf_counter() - self.began
            run.encoder.save(self.untrained)
        else:
            self.evaluation = time.perf_counter() - self.ends[-1]

    def cost(self) -> Cost:
        """Hold what was measured."""
        steps = [b - a for a, b in zip(self.ends, self.ends[1:], strict=False)]
        return Cost(round(self.start, 4), round(statistics.median(steps), 6), round(self.evaluation, 4))


def measure(recipe: Recipe, keep: Path) -> Cost | None:
    """Train a few steps, and throw them away.

    The folder `keep` gets `untrained`, the encoder before the first step, and data.json, the check of the data.

    Returns:
        The cost; None if Ctrl-C stopped it.

    Raises:
        UserError: The recipe cannot be trained.
    """
    options = [f"--trainer.max_steps={STEPS}", f"--trainer.eval_every={STEPS}", "--trainer.trackers=[]"]
    keep.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch, Interrupt() as interrupt:
        path = Path(scratch, "recipe.yaml")
        path.write_text(recipe.text, encoding="utf-8")
        short = recipes.load(str(path), options, trusted=None)  # the recipe is loaded already
        watch = _Stopwatch(keep / "untrained")
        run = fit(replace(short, name=recipe.name, own=None), Path(scratch, "run"), is_resume=False, watchers=[watch])
        if run.interrupted or interrupt.wanted:
            return None
        DataCheck().on_start(run)
        shutil.copy(Path(scratch, "run", checks.FILE), keep)
    return watch.cost()
