"""cse eval: score a checkpoint, compare two checkpoints, report on a folder of runs, or run tasks of MTEB."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from cse.commands import add_hardware, call, declare
from cse.errors import UserError

EVALUATE, COMPARE = "cse.evaluation.scoring:evaluate", "cse.evaluation.comparison:compare"
REPORT, MTEB = "cse.evaluation.reports.reporting:report", "cse.evaluation.scoring:run_mteb"
SCORING = {"tasks", "data", "device", "precision", "check"}  # parameters that `add_scoring` declares
HELP = "score a checkpoint, compare two, report on runs, run MTEB"
KEPT = "a results file is complete or unchanged"
ACTIONS = ("score", "compare", "report", "mteb")  # the first one is the default: cse eval CHECKPOINT
EPILOG = "`cse eval CHECKPOINT` is short for `cse eval score CHECKPOINT`; `cse eval score --help` lists its options."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="|".join(ACTIONS))

    def action(name: str, text: str) -> argparse.ArgumentParser:
        return actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", allow_abbrev=False)

    score = action("score", "score a checkpoint, print a table, and write results.json into its run")
    declare(score, EVALUATE, omit={*SCORING, "progress", "calibration"}, commas={"dimensions", "quantize"})
    add_scoring(score)
    add_kind(score)
    compare = action("compare", "test whether B is better than A: paired bootstrap, Holm's correction over tasks")
    declare(compare, COMPARE, omit={*SCORING, "resamples"})
    compare.add_argument("--out", type=Path, help="JSON file to write the comparison to")
    compare.add_argument("--dimensions", help=argparse.SUPPRESS)
    add_scoring(compare)
    add_kind(compare)
    report = action("report", "write report.md and report.html of the runs in a folder")
    declare(report, REPORT, {"summary": "--json"})
    mteb = action("mteb", "run tasks of MTEB; a task that has a result is not run again")
    declare(mteb, MTEB, omit=SCORING)
    for option in ("--dimensions", "--prompt"):
        mteb.add_argument(option, help=argparse.SUPPRESS)
    add_scoring(mteb)


def add_scoring(parser: argparse.ArgumentParser, default: str = "sts; without --data and CSE_DATA sts-mini") -> None:
    """Declare the options of every command that scores a checkpoint; `default` says what is scored without --tasks."""
    parser.add_argument("--tasks", help=f"tasks and groups, separated by commas (default: {default})")
    rows = "folder of <TASK>/<subset>.tsv, or SentEval's (default: CSE_DATA, then the Hub); or rows of your own"
    parser.add_argument("--data", help=rows)
    add_hardware(parser)
    parser.add_argument(
        "--unchecked", action="store_true", help="score even if the data are not the known evaluation sets"
    )


def add_kind(parser: argparse.ArgumentParser) -> None:
    """Declare the option that says what --data holds; its choices are those of `cse.evaluation.recognize`."""
    choices = "retrieval, nanobeir, similarity, pair-classification, triplets, paraphrases, labels, clustering, sts"
    text = f"what --data holds: {choices} (default: recognized by its files and columns)"
    parser.add_argument("--as", dest="kind", metavar="KIND", choices=choices.split(", "), help=text)


def wanted(a: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """The tasks or the evaluator that the options ask for, and the options of tasks."""
    from cse.console import say
    from cse.evaluation.recognize import recognize
    from cse.files import require_name

    options = scoring_options(a)
    if a.data is not None:
        require_name(a.data, "--data")
    elif a.kind:
        raise UserError(f"--as {a.kind} says what --data holds, and there is no --data\nfix: give --data PATH")
    found = recognize(a.data, a.kind) if a.data and (a.kind or not a.tasks) else None
    if found is None:
        return a.tasks, options
    say("data", found.said)
    return found.evaluator(a.precision, getattr(a, "prompt", None)), options | {"data": None}


def run(arguments: argparse.Namespace, _: list[str]) -> int:
    from cse.console import quiet

    quiet()
    return {"score": _score, "compare": _compare, "report": _report, "mteb": _mteb}[arguments.action](arguments)


def scoring_options(a: argparse.Namespace) -> dict[str, Any]:
    """The options that every way of scoring has; see `add_scoring`."""
    return {"data": a.data, "device": a.device, "precision": a.precision, "check": not a.unchecked}


def _score(a: argparse.Namespace) -> int:
    from cse.console import say
    from cse.evaluation import results
    from cse.evaluation.reports import table
    from cse.evaluation.scoring import parted

    tasks, options = wanted(a)
    out = a.out or results.default_out(a.checkpoint, parted(tasks, options["data"]).requested, a.prompt)
    prompt = a.prompt if isinstance(tasks, str | None) else None  # an evaluator has its own prompts
    options |= {"out": out, "prompt": prompt, "progress": sys.stderr.isatty()}
    scored = call(EVALUATE, a, tasks=tasks, **options)
    table.show(scored.results)
    complete = results.has_scores(scored.results)
    if out:
        say("wrote", str(out) if complete else f"nothing, since no task has a score; {out} is as it was")
    return 0 if complete else 1


def _compare(a: argparse.Namespace) -> int:
    from cse.encoder.checkpoint.source import fetch
    from cse.evaluation import comparison, results
    from cse.files import check_writable

    _require_whole(a.dimensions, "compares")
    if a.out:
        check_writable(a.out)
    tasks, options = wanted(a)
    options |= {"progress": sys.stderr.isatty(), "prompt": a.prompt if isinstance(tasks, str | None) else None}
    for name in (a.a, a.b):  # before one of them is scored
        if not Path(name).expanduser().exists():
            fetch(name, option="checkpoint")
    first, second = (comparison.read_or_score(name, tasks, **options) for name in (a.a, a.b))
    found = comparison.compare(first, second, measures=a.measures)
    comparison.show(first, second, found)
    if a.out:
        results.write(comparison.as_dict(first, second, found), a.out)
    return 0


def _require_whole(dimensions: str | None, verb: str) -> None:
    if dimensions is not None:
        raise UserError(
            f"--dimensions {dimensions}: this action {verb} whole vectors only\n"
            f"fix: `cse eval CHECKPOINT --dimensions {dimensions}` scores the first dimensions as well"
        )


def _report(a: argparse.Namespace) -> int:
    from cse.console import say

    out = a.out or a.runs
    found = call(REPORT, a)
    say("found", f"{len(found.entries)} results, {len(found.curves)} runs")
    for why in found.skipped:
        say("skipped", why)
    for path in (out / "report.md", out / "report.html", a.summary):
        if path:
            say("wrote", str(path))
    return 0


def _mteb(a: argparse.Namespace) -> int:
    from cse.evaluation.reports import table

    _require_whole(a.dimensions, "scores")
    if a.prompt is not None:
        raise UserError(
            f"--prompt {a.prompt}: MTEB puts the checkpoint's own prompts before texts, by their kind and task\n"
            "fix: omit it; `cse eval CHECKPOINT --prompt NAME` has it for the tasks of cse"
        )
    found = call(MTEB, a, tasks=a.tasks or "sts", check=not a.unchecked)
    table.show_mteb(found)
    return 1 if found["failed"] else 0
