"""The end of a search: score the final checkpoints, compare them, and write the table, the verdict and the recipe."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cse import recipe as recipes
from cse.console import Interrupt, say
from cse.evaluation import results
from cse.evaluation.recognize import own_rows
from cse.evaluation.reports.collect import Entry
from cse.evaluation.reports.methods import Method
from cse.evaluation.results import Scored
from cse.evaluation.scoring import evaluate
from cse.files import write_text
from cse.recipe.settings import Settings
from cse.search.runner import CHOSEN, RECIPE, Stopped
from cse.search.state import Contender, State
from cse.search.verdict import Line, Verdict, judge, lines, markdown
from cse.training import hardware, tracking

TABLE, BEST = "table.md", "best.yaml"


def conclude(state: State, folder: Path, interrupt: Interrupt) -> tuple[list[Line], Verdict, Path | None]:
    """Write table.md and, if a method is to be taken, best.yaml; the result goes to search.json and to the trackers.

    Returns:
        The table of the dev tasks, the verdict, and the path of best.yaml.

    Raises:
        Stopped: Ctrl-C was pressed; what was scored is kept.
        FloatingPointError: No method has a finite loss.
    """
    kept = [contender for contender in state.contenders if not contender.failed]
    for contender in state.contenders:
        if contender not in kept:
            say("left out", f"{contender.name}: the loss of its runs is not finite")
    if not kept:
        raise FloatingPointError("every loss is not finite\nfix: search again with a lower --trainer.learning_rate")
    costs = {c.name: c.cost.step for c in kept}
    settings = {c.name: c.chosen or {} for c in kept}

    table = _compare(state, kept, folder, state.dev, interrupt)
    verdict = judge(table, costs)
    parts = [
        f"# Search on {state.data}",
        f"{_metric(state.dev)} × 100 on {state.dev}; {len(state.seeds)} seeds; budget {state.budget} for all methods.",
        markdown(table, state.dev, settings, costs),
        f"**Verdict**: {verdict.text}.",
        f"Settings and checkpoints were selected on {state.dev}, so the dev scores of trained methods are optimistic, "
        "and so is what they gain over the untrained encoder.",
    ]
    state.result = {"dev": [_as_dict(line) for line in table], "verdict": asdict(verdict)}
    if state.test:
        tested = _compare(state, kept, folder, state.test, interrupt, best=verdict.best)
        parts += [
            f"## {state.test}",
            f"Nothing was selected here: the same checkpoints, and {verdict.best} as the best.",
        ]
        parts += [markdown(tested, state.test, settings, costs)]
        state.result["test"] = [_as_dict(line) for line in tested]
    text = "\n\n".join(part.strip() for part in parts) + "\n"
    write_text(folder / TABLE, text)
    state.write(folder)
    _track(state, table, folder)

    say("table", f"{folder / TABLE}\n\n{text}")
    if verdict.choice not in costs:
        say("next", "keep the encoder as it is: no training was shown to help")
        return table, verdict, None
    recipe = folder / BEST
    shutil.copy(folder / verdict.choice / CHOSEN, recipe)
    best = folder / verdict.choice / f"final-s{state.seeds[0]}" / "best"
    say("next", f"cse train {recipe}    cse eval {best}    cse push {best} you/name")
    return table, verdict, recipe


def _compare(
    state: State, kept: Sequence[Contender], folder: Path, tasks: str, interrupt: Interrupt, best: str | None = None
) -> list[Line]:
    """The table of all final checkpoints and untrained encoders on some tasks."""

    def entry(method: str, checkpoint: Path, out: Path, seed: int | None) -> Entry:
        if interrupt.wanted:
            raise Stopped
        scored = Scored.read(out) if out.is_file() else evaluate(checkpoint, wanted, data=state.dev_data, out=out)
        return Entry(method, method, seed, dict(scored.results), scored, None)

    own = own_rows("search", tasks)
    wanted = tasks if own is None else own.evaluator()
    finals, untrained = [], {}
    for contender in kept:
        root = folder / contender.name
        out = root / results.name_for("untrained", tasks)
        untrained[contender.name] = entry(contender.name, root / "untrained", out, None)
        for seed in state.seeds:
            run = root / f"final-s{seed}"
            finals.append(entry(contender.name, run / "best", run / results.name_for("best", tasks), seed))
    return lines(finals, untrained, best)


def _metric(dev: str) -> str:
    own = own_rows("search", dev)
    return "Spearman" if own is None else own.evaluator().primary


def _as_dict(line: Line) -> dict[str, Any]:
    """A row of the table as JSON."""
    row: dict[str, Any] = {"name": line.name, "seeds": line.seeds, "mean": line.mean, "sd": line.sd}
    for name, other in (("to_untrained", line.to_untrained), ("to_best", line.to_best)):
        row[name] = None if other is None else _difference(other)
    return row


def _difference(method: Method) -> dict[str, Any]:
    return {
        "difference": method.difference,
        "interval": list(method.interval or ()),
        "p_holm": method.adjusted,
        "verdict": method.verdict,
    }


def _track(state: State, table: Sequence[Line], folder: Path) -> None:
    """Log the table to the trackers that the runs were given."""
    options = recipes.load(str(folder / state.contenders[0].name / RECIPE), trusted=None).config.trainer
    if not options.trackers:
        return
    accelerator = hardware.accelerator(Settings(**vars(options)), folder)
    about = {"data": state.data, "dev": state.dev, "budget": state.budget, "trials": state.trials, "seeds": state.seeds}
    tracking.start(accelerator, folder, f"search-{folder.name}", about)
    rows = [[line.name, line.mean, line.to_untrained.difference if line.to_untrained else 0.0] for line in table]
    tracking.log_table(accelerator, "search", ["method", "dev", "minus untrained"], rows)
    accelerator.end_training()
