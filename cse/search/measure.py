"""Before a search: the recipes that fit the data, and what a few steps of each cost."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cse import recipe as recipes
from cse.console import Interrupt
from cse.data import checks
from cse.data.datasets import ScoredPairs, Texts, Triplets
from cse.data.reading.columns import of_pairs, of_texts, of_triplets, score_column_of
from cse.data.reading.rows import Reader
from cse.data.reading.sources import open_path
from cse.errors import UserError
from cse.interfaces import Callback
from cse.recipe import Recipe
from cse.search.state import Cost
from cse.training.callbacks import DataCheck
from cse.training.run import Run
from cse.training.start import fit

STEPS = 4  # that are timed; the first is left out, since libraries prepare themselves in it


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
    options, kind = vars(recipe.config.data.init_args), recipe.config.data.kind
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
