"""The end of a search: score the final checkpoints, compare them, and write the table, the verdict and the recipe."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cse import recipe as recipes
from cse.console import Interrupt, say
from cse.evaluation import results
from cse.evaluation.comparison import NO_DIFFERENCE
from cse.evaluation.recognize import own_rows
from cse.evaluation.reports.collect import Entry, by_recipe, plus_minus
from cse.evaluation.reports.methods import Method, mean_of, methods
from cse.evaluation.reports.table import Table
from cse.evaluation.results import Scored
from cse.evaluation.scoring import evaluate
from cse.files import write_text
from cse.recipe.settings import Settings
from cse.search.runner import CHOSEN, RECIPE, Stopped
from cse.search.state import Contender, State
from cse.training import hardware, tracking

TABLE, BEST = "table.md", "best.yaml"
UNTRAINED = "untrained"


@dataclass(frozen=True)
class Line:
    """A row of the table."""

    name: str  # name of the method, or of the untrained encoder
    seeds: int  # number of final runs; 0 for the untrained encoder
    mean: float  # mean of their scores
    sd: float | None  # standard deviation of their scores; None for fewer than two
    to_untrained: Method | None  # the method minus its own untrained encoder; None for an untrained encoder
    to_best: Method | None  # the method minus the best one; None for the best


@dataclass(frozen=True)
class Verdict:
    """What follows from a table."""

    best: str  # the name with the highest mean
    choice: str  # what to take: the cheapest of those that no difference from the best was shown for, the best included
    text: str  # the same in words


def conclude(state: State, folder: Path, interrupt: Interrupt) -> tuple[list[Line], Verdict, Path | None]:
    """Write table.md and, if a method is to be taken, best.yaml; the result goes to search.json and to the trackers.

    Returns:
        The table of the dev tasks, the verdict, and the path of best.yaml.
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
    for name, m in (("to_untrained", line.to_untrained), ("to_best", line.to_best)):
        compared = m and {"difference": m.difference, "interval": list(m.interval or ()), "p_holm": m.adjusted}
        row[name] = m and {**(compared or {}), "verdict": m.verdict}
    return row


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


def lines(finals: Sequence[Entry], untrained: Mapping[str, Entry], best: str | None = None) -> list[Line]:
    """Every method beside its untrained encoder and the best, from high to low.

    The differences are paired: on the same resamples of the pairs, and of the seeds. p-values are adjusted by Holm's
    method over the comparisons with one baseline. `finals` are the scored final checkpoints of all methods, and
    `untrained` the encoder that each method began with; methods that begin with the same vectors share one. Without
    `best`, it is the method with the highest mean.
    """
    groups = _groups(untrained)
    bare = [Entry(name, name, None, e.results, e.scored, e.run) for name, (e, _) in groups.items()]
    by_name = by_recipe([*finals, *bare])
    means = {name: mean_of(entries) for name, entries in by_name.items()}
    best = best or max(means, key=lambda name: means[name])
    to_best = {m.name: m for m in methods([*finals, *bare], best) if m.name != best}
    to_untrained = {}
    for entry, (name, (_, members)) in zip(bare, groups.items(), strict=True):
        group = [entry, *[e for e in finals if e.recipe in members]]
        to_untrained.update({m.name: m for m in methods(group, name) if m.name != name})
    found = []
    for name, entries in by_name.items():
        scores = [float(e.average) for e in entries if e.average is not None]
        sd = statistics.stdev(scores) if len(scores) > 1 else None
        seeds = 0 if name in groups else len(scores)
        found.append(Line(name, seeds, means[name], sd, to_untrained.get(name), to_best.get(name)))
    return sorted(found, key=lambda line: -line.mean)


def judge(table: Sequence[Line], costs: Mapping[str, float]) -> Verdict:
    """The verdict of a table.

    What is absent from `costs`, in seconds of a step, costs nothing, as does the untrained encoder.
    """
    best = next(line.name for line in table if line.to_best is None)
    tied = [line.name for line in table if line.to_best is None or line.to_best.verdict == NO_DIFFERENCE]
    choice = min(tied, key=lambda name: costs.get(name, 0.0))  # the higher mean of those that cost the same
    if len(tied) == 1:
        return Verdict(best, best, f"{best} is better than all others")
    price = f"{costs[choice]:.3g} s a step" if choice in costs else "which needs no training"
    between = f"{', '.join(tied[:-1])} and {tied[-1]}"
    return Verdict(best, choice, f"{NO_DIFFERENCE} between {between}: take the cheapest, {choice} ({price})")


def markdown(
    table: Sequence[Line], tasks: str, settings: Mapping[str, Mapping[str, float]], costs: Mapping[str, float]
) -> str:
    """The table as Markdown."""
    tuned = list(dict.fromkeys(name for setting in settings.values() for name in setting))
    heads = ["method", *[name.replace("_", " ") for name in tuned], "seeds", tasks, "minus untrained (95 %)", ""]
    rows = []
    for line in table:
        values = [f"{settings[line.name][n]:.3g}" if n in settings.get(line.name, {}) else "" for n in tuned]
        compared = list[str]()
        for method in (line.to_untrained, line.to_best):
            compared += [method.shown, method.verdict] if method else ["", ""]
        cost = f"{costs[line.name]:.3g}" if line.name in costs else ""
        rows.append([line.name, *values, str(line.seeds or "-"), plus_minus(line.mean, line.sd), *compared, cost])
    return Table([*heads, "minus best (95 %)", "", "s a step"], rows, ("method", "")).markdown()


def _groups(untrained: Mapping[str, Entry]) -> dict[str, tuple[Entry, list[str]]]:
    """The untrained encoders that differ, by a name for each, with the methods that begin with it."""
    found: dict[tuple[bytes, ...], tuple[Entry, list[str]]] = {}  # by what their scores are computed from
    for name, entry in untrained.items():
        findings = [] if entry.scored is None else entry.scored.findings.values()
        vectors = tuple(array.tobytes() for finding in findings for array in finding.arrays.values())
        found.setdefault(vectors, (entry, []))[1].append(name)
    if len(found) == 1:
        return {UNTRAINED: next(iter(found.values()))}
    return {f"{UNTRAINED} {', '.join(members)}": (entry, members) for entry, members in found.values()}
