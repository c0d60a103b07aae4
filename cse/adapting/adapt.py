"""`cse.adapt`: measure the start, try the ways that fit, train the best one, merge, compare, and say it."""

from __future__ import annotations

import io
import shlex
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cse.adapting.material import MATERIAL, Material, evaluator, prepare
from cse.adapting.questions import COLUMNS, QUESTIONS, TEXTS, ask
from cse.adapting.ways import BATCH, EPOCHS, GENERAL, MINED, Way, ways
from cse.api import train
from cse.console import quiet, say
from cse.data.datasets import Texts
from cse.encoder.kinds import detect
from cse.errors import UserError
from cse.evaluation.before_after import general_search
from cse.evaluation.comparison import compare
from cse.evaluation.results import Scored
from cse.evaluation.scoring import evaluate
from cse.files import check_writable, json_lines, read_json, write_json, write_text
from cse.interfaces import Evaluator
from cse.mining.command import mine
from cse.mining.miners import TopK
from cse.search.state import Budget
from cse.training.merge import merge

STATE = "adapt.json"
TRIALS = 0.25  # share of the steps that the shortlist is tried with
SPENT = 0.9  # share of the time that is left for steps that is planned; loading takes the rest
SCORINGS = 4  # of the start's length, that follow the last step
PROBE = 6  # steps, of which the last half is measured
LEAST = 5  # steps below which a run tells nothing
SHARES = (0.5, 0.75)  # of the trained weights, in merges with the start
CLOSE = 0.95  # share of the best gain on dev that suffices for the one that loses least on the general sets
LOSS = 0.3  # points that a general score may lose where the loss is not shown by an interval
MARGIN, MOST_NEAR = 0.05, 6  # mined negatives of a row: this share less near than the positive (arXiv:2407.15831)


@dataclass(frozen=True)
class Adapted:
    """Hold what an adaptation found."""

    folder: Path  # its folder, with report.md and script.sh
    model: Path | None  # the folder of the better encoder; None: keep the encoder as it is
    way: str  # the way that was taken, such as `near-6e-5`, with the share of a merge
    before: float  # the score of the start on the test rows
    after: float  # that of the model
    interval: tuple[float, float]  # the 95 % interval of the difference
    general: dict[str, float]  # the change of each general score
    verdict: str  # what follows, in one sentence


def adapt(
    data: str,
    *,
    encoder: str,
    budget: str = "1h",
    out: str | Path = "adapted",
    columns: Sequence[str] | None = None,
    label_column: str | None = None,
    general: str | None = None,
    questions: str | None = None,
    base_url: str | None = None,
    seed: int = 42,
) -> Adapted:
    """Make a sentence encoder better on your text, no worse elsewhere, and prove it.

    Rows are divided into train, dev and test by groups that share a text. The ways that fit are tried for equal
    shares of the budget, every other step on general text, where the vectors of the start are to be kept
    (arXiv:1606.09282). The best on dev is trained for the rest of it and merged with the start. Of those that do
    not lose on the general sets, STS and search in another field, and whose gain on dev is the best or close to it,
    the one is taken that has lost least there. The test rows are read once, to compare it with the start. After a
    kill, the same call resumes.

    Args:
        data: Pairs, texts with labels, or texts: a file, `asset:NAME` or Hub id.
        encoder: The sentence encoder to start from: a folder or Hub id.
        budget: What it may take: 90s, 30m or 2h; or what training may take: 2000steps.
        out: The folder to write.
        columns: The columns of texts: two for pairs. None: recognized by name.
        label_column: The column of labels. None: recognized by name.
        general: Text of many subjects, on which the encoder is to stay as it is: a file, `asset:NAME` or Hub id. None:
            sentences of the English Wikipedia, fetched once, and none where they cannot be fetched.
        questions: Language model that writes a question to each text, openai:NAME, so that texts are pairs. None: texts
            are learned from by their halves.
        base_url: Address of its OpenAI-compatible endpoint. None: that of OpenAI.
        seed: The seed of the division and of every run.

    Raises:
        UserError: The data cannot be divided, the encoder is none, or the budget is too short for one trial.
    """
    asked: dict[str, Any] = {"data": str(data), "encoder": encoder, "budget": budget, "seed": seed}
    asked |= {"columns": list(columns or []), "label_column": label_column, "general": general}
    asked |= {"questions": questions, "base_url": base_url}
    if questions and label_column is not None:
        raise UserError("--questions are for texts without labels\nfix: omit it, or --label-column")
    if base_url and not questions:
        raise UserError("--base-url is the address of the model of --questions\nfix: give --questions openai:NAME, too")
    return _Adaptation(asked, Path(out)).run()


class _Adaptation:
    """The steps of an adaptation. What is done lies in the folder, and is not done again."""

    def __init__(self, asked: dict[str, Any], out: Path) -> None:
        quiet()
        self.begun, self.folder = time.monotonic(), out
        data, encoder, self.seed = asked["data"], asked["encoder"], asked["seed"]
        self.budget, self.encoder = Budget.parse(asked["budget"]), encoder
        if detect(encoder).name != "sentence-transformers":
            raise UserError(
                f"--encoder {encoder} is not a sentence encoder yet\n"
                f"fix: make one first: cse train simcse-unsup --encoder {encoder} --data {data}"
            )
        check_writable(out, "--out", kind="folder")
        self.state: dict[str, Any] = {"asked": asked, "steps": {}, "commands": [], "seconds": {}}
        if (out / STATE).is_file():
            self.state = read_json(out / STATE)
            if self.state["asked"] != asked:
                changed = next(key for key in asked if self.state["asked"].get(key) != asked[key])
                was, now = self.state["asked"].get(changed), asked[changed]
                raise UserError(f"--out {out} was begun with {changed}={was}, not {now}\nfix: give another folder")
        self.rows = out / "data"
        columns = {"columns": asked["columns"] or None, "label_column": asked["label_column"]}
        if asked["questions"]:
            data, columns = self._questions(asked), {"columns": COLUMNS, "label_column": None}
        self.material: Material = prepare(data, self.rows, seed=self.seed, **columns)
        self.dev, self.select = evaluator(self.material.kind, self.rows, "dev")
        self.test, _ = evaluator(self.material.kind, self.rows, "test")
        self.log = io.StringIO()
        self.general = self._general(asked["general"])

    def run(self) -> Adapted:
        """All steps."""
        say("data", self.material.describe())
        self._save()
        before = time.monotonic()
        start = self._score("start", self.encoder)
        self._measured("scoring", lambda: time.monotonic() - before)
        say("start", f"{self.encoder}   {_shown(start)}")
        found, total = self._plan()
        best, spent = self._best(found, total)
        steps = min(int(total - spent), self._most(best))
        say("steps", f"{steps:,} of {best.batch} rows")
        run = self._train(best, steps, "final")
        return self._conclude(best.name, run / "best", start)

    def _conclude(self, way: str, trained: Path, start: Scored) -> Adapted:
        """Merge with the start, choose, and compare on the test rows."""
        candidates, scored = {way: trained}, {way: self._score("trained", trained)}
        for share in SHARES:
            name, folder = f"{way} merged {share:g}", self.folder / f"merged-{share:g}"
            self._command("merge", self.encoder, trained, "--weights", 1 - share, share, "--out", folder)
            if not folder.is_dir():
                merge([self.encoder, str(trained)], folder, weights=[1 - share, share], tasks="")
            candidates[name], scored[name] = folder, self._score(folder.name, folder)
        for name, score in scored.items():
            say("scored", f"{name}   {_shown(score)}{'' if _keeps(start, score) else '   (loses on a general set)'}")
        kept = [
            name for name, score in scored.items() if _keeps(start, score) and score.scores["dev"] > start.scores["dev"]
        ]
        if not kept:
            return self._keep(way, "nothing that was tried is better on dev without a loss on the general sets")
        most = max(scored[each].scores["dev"] - start.scores["dev"] for each in kept)
        close = [each for each in kept if scored[each].scores["dev"] - start.scores["dev"] >= CLOSE * most]
        name = max(close, key=lambda each: _lost(start, scored[each]))
        before = self._score("start-test", self.encoder, [self.test])
        after = self._score("model-test", candidates[name], [self.test])
        difference = compare(before, after)["test"]
        low, high = difference.interval
        if low <= 0:
            shown = f"on the test rows {difference.b - difference.a:+.2f} ({low:+.2f} to {high:+.2f})"
            return self._keep(way, f"no gain is shown: {shown}", difference.a, difference.b, (low, high))
        general = {task: value - start.scores[task] for task, value in scored[name].scores.items() if task != "dev"}
        changes = ", ".join(f"{task} {change:+.2f}" for task, change in general.items())
        verdict = (
            f"take {candidates[name]}: {difference.metric} {difference.a:.2f} to {difference.b:.2f} "
            f"on {difference.n:,} test rows ({difference.b - difference.a:+.2f}; 95 % {low:+.2f} to {high:+.2f}); "
            f"general: {changes}"
        )
        done = Adapted(self.folder, candidates[name], name, difference.a, difference.b, (low, high), general, verdict)
        return self._written(done)

    def _keep(
        self, way: str, why: str, before: float = 0.0, after: float = 0.0, bounds: tuple[float, float] = (0.0, 0.0)
    ) -> Adapted:
        verdict = f"keep the encoder as it is: {why}"
        return self._written(Adapted(self.folder, None, way, before, after, bounds, {}, verdict))

    def _written(self, done: Adapted) -> Adapted:
        """Write report.md and script.sh, and say the verdict."""
        asked = self.state["asked"]
        rows = [f"| {name} | {value} |" for name, value in self.state["steps"].items()]
        text = [f"# {self.encoder} on {asked['data']}", "", done.verdict[0].upper() + done.verdict[1:] + ".", ""]
        text += [f"Rows: {self.material.describe()}.", "", "| step | found |", "|---|---|", *rows, ""]
        write_text(self.folder / "report.md", "\n".join(text))
        write_text(self.folder / "script.sh", "\n".join(["set -e", *self.state["commands"], ""]))
        if self.log.getvalue():
            write_text(self.folder / "log.txt", self.log.getvalue())
        say("verdict", done.verdict)
        say("report", f"{self.folder / 'report.md'}; script.sh beside it repeats it")
        return done

    def _plan(self) -> tuple[list[Way], float]:
        """The ways to try and the steps that the budget allows; a time is measured once, and kept."""
        found = ways(self.material, self.rows, general=self.general)
        if self.budget.in_steps:
            total = most = self.budget.amount
        else:
            speed = self._measured("step", lambda: self._probe(found[-1]))
            total = most = self.budget.amount / speed
        if self.material.kind == "pairs":
            rows = int(most) * BATCH
            limit = rows if rows < self.material.train else None
            found = ways(self.material, self.rows, general=self.general, limit=limit)
            found = [way for way in found if not way.mined or self._mined(rows)]
        if not self.budget.in_steps:
            scoring = SCORINGS * self._measured("scoring", lambda: 0.0)
            spent = self._measured("spent", lambda: time.monotonic() - self.begun)
            total = SPENT * (self.budget.amount - spent - scoring) / speed
            say("budget", f"{spent:.0f} s are spent, scoring takes {scoring:.0f}, and a step {speed:.2f}")
        if total < LEAST:
            raise UserError(
                f"--budget {self.state['asked']['budget']} is too short: it has {max(0, int(total))} steps of "
                f"{found[0].batch} rows\nfix: give a longer budget, or a smaller encoder"
            )
        return found, total

    def _questions(self, asked: dict[str, Any]) -> str:
        """The file of texts with their questions, which the model is asked for first."""
        path = self.folder / QUESTIONS
        if not (self.rows / MATERIAL).is_file():  # else they are divided already
            given = {key: asked[key] for key in ("base_url", "columns", "seed")}
            ask(asked["data"], self.folder, asked["questions"], **given)
        options = ["--data", self.folder / TEXTS, *(["--base-url", asked["base_url"]] if asked["base_url"] else [])]
        self._command("feedback", "queries", "--model", asked["questions"], *options, "--count", 1, "--out", path)
        return str(path)

    def _general(self, asked: str | None) -> str | None:
        """Text on which the encoder is to stay as it is; what was found to be there once is used again."""
        if "general" not in self.state:
            try:
                with redirect_stdout(self.log):
                    Texts(asked or GENERAL, limit=2)
                self.state["general"] = asked or GENERAL
            except UserError as error:
                if asked:
                    raise
                say("general", f"no text to stay the same on: {str(error).splitlines()[0]}")
                self.state["general"] = None
        return str(self.state["general"]) if self.state["general"] else None

    def _best(self, found: Sequence[Way], total: float) -> tuple[Way, float]:
        """Try the ways for equal steps, the first ones alone where the budget is short; returns what this took, too.

        A budget that does not suffice to try two of them is spent on the first.
        """
        while (each := int(total * TRIALS / len(found))) < LEAST and len(found) > 1:
            found = found[:-1]
        if len(found) == 1:
            say("chosen", f"{found[0].name}: the budget does not suffice to try others")
            return found[0], 0.0
        tried = {way.name: self._tried(way, min(each, self._most(way))) for way in found}
        best = max(found, key=lambda way: tried[way.name])
        say("chosen", f"{best.name}, the best of {len(found)} on dev")
        return best, total * TRIALS

    def _probe(self, way: Way) -> float:
        """Seconds of a step."""
        run = self._train(way, PROBE, "probe", ["--evaluator=null", f"--trainer.eval_every={PROBE // 2 * way.each}"])
        return way.each / float(json_lines(run / "metrics.jsonl")[-1]["steps_per_s"])

    def _measured(self, what: str, measure: Callable[[], float]) -> float:
        """Seconds that something takes, which are measured once, and kept."""
        if what not in self.state["seconds"]:
            self.state["seconds"][what] = measure()
            self._save()
        return float(self.state["seconds"][what])

    def _mined(self, rows: int) -> bool:
        """Mine hard negatives among the first rows; tells whether there are any."""
        path, out, columns = self.rows / "train.jsonl", self.rows / MINED, ["anchor", "positive"]
        if "negatives" not in self.state:
            miner, k = TopK(relative_margin=MARGIN), MOST_NEAR
            try:
                with redirect_stdout(self.log):
                    found = mine(self.encoder, str(path), columns=columns, limit=rows, k=k, miner=miner, out=out)
                self.state["negatives"] = sum(len(row.texts) - 2 for row in found)
                options = ["--data", path, "--columns", *columns, "--limit", rows, "--k", k]
                self._command("mine", self.encoder, *options, "--relative-margin", MARGIN, "--out", out)
                say("mined", f"{self.state['negatives']:,} hard negatives")
            except UserError as error:  # such as fewer texts than negatives
                self.state["negatives"] = 0
                say("mined", f"none: {str(error).splitlines()[0]}")
            self._save()
        return bool(self.state["negatives"])

    def _most(self, way: Way) -> int:
        """The steps of `EPOCHS` passes over the rows."""
        return max(LEAST, EPOCHS * self.material.train // way.batch)

    def _tried(self, way: Way, steps: int) -> float:
        """The dev score of a way after a few steps."""
        run = self._train(way, steps, f"trial-{way.name}")
        score = max(line["dev"] for line in json_lines(run / "metrics.jsonl") if line["step"])
        say("trial", f"{way.name}   dev {score:.2f} after {steps} steps")
        self._did(way.name, f"dev {score:.2f} after {steps} steps")
        return float(score)

    def _train(self, way: Way, steps: int, name: str, more: Sequence[str] = ()) -> Path:
        """Train a way, or continue it; returns the run's folder."""
        folder = self.folder / name
        given = ["--encoder", self.encoder, *way.options, *self.select, "--trainer.initial_weights=ignore"]
        steps *= way.each
        given = [*given, f"--trainer.max_steps={steps}", f"--trainer.warmup_steps={steps // 10}", f"--seed={self.seed}"]
        given = [*given, *more]
        if name != "probe":
            self._command("train", way.recipe, *given, "--run-dir", folder)
        with redirect_stdout(self.log):
            run = train(way.recipe, overrides=given, run_dir=folder, resumes=True)
        if run.stopped_by:
            raise KeyboardInterrupt
        return folder

    def _score(self, name: str, model: str | Path, tasks: Sequence[str | Evaluator] = ()) -> Scored:
        """Score a model on dev and the general sets, or on others; read from the folder if it was scored before."""
        path = self.folder / "scores" / f"{name}.json"
        if path.is_file():
            return Scored.read(path)
        path.parent.mkdir(exist_ok=True)
        wanted = tasks or [self.dev, "sts-mini", general_search()]
        with redirect_stdout(self.log):
            found = evaluate(str(model), wanted, out=path)
        self._did(name, _shown(found))
        return found

    def _did(self, name: str, found: str) -> None:
        self.state["steps"][name] = found
        self._save()

    def _command(self, *words: object) -> None:
        """Note a command for script.sh."""
        line = shlex.join(["cse", *map(str, words)])
        if line not in self.state["commands"]:
            self.state["commands"].append(line)
            self._save()

    def _save(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / STATE, self.state)


def _keeps(start: Scored, scored: Scored) -> bool:
    """Tell whether a model loses at most 0.3 on each general set, or no loss is shown there."""
    differences = compare(start, scored)
    general = [d for task, d in differences.items() if task not in {"dev", "average"}]
    return all(d.b - d.a >= -LOSS or d.verdict != "A is better" for d in general)


def _lost(start: Scored, scored: Scored) -> float:
    """Sum the losses on the general sets, <= 0."""
    changes = [value - start.scores[task] for task, value in scored.scores.items() if task != "dev"]
    return sum(min(change, 0.0) for change in changes)


def _shown(scored: Scored) -> str:
    return ", ".join(f"{task} {value:.2f}" for task, value in scored.scores.items())
