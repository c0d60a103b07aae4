"""`python -m eval CHECKPOINT`, and `python -m eval COMMAND ...` for the rest."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cse.console import quiet, say
from cse.errors import UserError

if TYPE_CHECKING:
    from cse.evaluation.compare import Scored

EXIT_USER_ERROR, EXIT_INTERRUPTED = 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = COMMANDS.get(arguments[0]) if arguments else None
    try:
        return command(arguments[1:]) if command else score(arguments)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def score(arguments: list[str]) -> int:
    """Score one checkpoint, print the table, write results.json."""
    parser = _parser("", f"Score a checkpoint. Other commands: {', '.join(COMMANDS)}.")
    parser.add_argument(
        "checkpoint", help="folder or Hub id of a checkpoint of ours, a SentenceTransformer or a plain model"
    )
    parser.add_argument("--out", type=Path, help="where to write results.json (default: a checkpoint's own run)")
    _scoring(parser)
    options = parser.parse_args(arguments)
    from cse.evaluation import results, table

    out = options.out or results.default_out(options.checkpoint, options.tasks)
    if out:
        results.check_writable(out)
    found, similarities = scored(options.checkpoint, options)
    table.show(found)
    if out:
        results.write(found, out, similarities or None)
        sys.stderr.write(f"wrote {out}\n")
    return 0 if found["tasks"] or found.get("transfer") else 1


def scored(checkpoint: str, options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Results of a checkpoint and its pairs' similarities."""
    from cse.evaluation import results, suite, transfer
    from cse.evaluation.encoding import embedder, resolve_precision
    from cse.evaluation.harness import Outcome, evaluate
    from cse.evaluation.loading import load_model

    sts, labelled = transfer.split_names(options.tasks)
    if sts or not labelled:
        suite.resolve(sts)  # a typing error costs no loading
    quiet()
    start = time.perf_counter()
    model = load_model(checkpoint)
    loading, progress = time.perf_counter() - start, sys.stderr.isatty()
    check, precision = not options.unchecked, options.precision
    outcome = Outcome(sts, {}, {}, {})
    if sts:
        outcome = evaluate(model.encoder, sts, options.data, precision=precision, check=check, progress=progress)
    found = results.build(outcome, model.as_dict(), resolve_precision(model.encoder, precision))
    if labelled:
        embed = embedder(model.encoder, precision, progress)
        found |= results.build_transfer(labelled, options.data, embed, folds=options.folds, check=check)
    found["seconds"] = {"load": round(loading, 3), **found["seconds"]}
    return found, results.similarities(outcome)


def compare(arguments: list[str]) -> int:
    """Compare two results files or checkpoints."""
    parser = _parser("compare", "Is B better than A? Paired bootstrap over pairs, Holm's correction over tasks.")
    parser.add_argument("a", help="a results.json, or a checkpoint, which is then scored first")
    parser.add_argument("b", help="the same")
    parser.add_argument("--out", type=Path, help="where to write the comparison as JSON")
    _scoring(parser)
    options = parser.parse_args(arguments)
    from cse.evaluation import compare as comparing
    from cse.evaluation import results

    if options.out:
        results.check_writable(options.out)
    a, b = (_scored_or_read(name, options) for name in (options.a, options.b))
    found = comparing.compare(a, b)
    comparing.show(a, b, found)
    if options.out:
        results.write(comparing.as_dict(a, b, found), options.out)
    return 0


def _scored_or_read(name: str, options: argparse.Namespace) -> Scored:
    """A results file as it is; a folder of a model is scored; any other folder must hold a results.json."""
    from cse.evaluation.compare import Scored

    path = Path(name)
    if path.is_file():
        return Scored.read(path)
    if (path / "results.json").is_file() and not (path / "config.json").is_file():
        return Scored.read(path / "results.json")
    found, arrays = scored(name, options)
    by_kind = [{task: arrays[f"{task}/{kind}"] for task in found["tasks"]} for kind in ("cosine", "gold")]
    return Scored(name, found, *by_kind)


def mteb(arguments: list[str]) -> int:
    """Run tasks of MTEB."""
    parser = _parser("mteb", "Run tasks of MTEB; results are kept per task, and what is there is not run again.")
    parser.add_argument("checkpoint", help="folder or Hub id")
    parser.add_argument("--benchmark", help='a benchmark by name, as "MTEB(eng, v2)", in place of --tasks')
    parser.add_argument("--out", type=Path, required=True, help="folder for results")
    parser.add_argument("--overwrite", action="store_true", help="run again what is there")
    _scoring(parser)
    options = parser.parse_args(arguments)
    quiet()
    from cse.evaluation import results, table
    from cse.evaluation.loading import load_model, prompts

    try:
        from cse.evaluation import mteb_adapter
    except ImportError as error:
        raise UserError(f"this command needs mteb: {error}.\nInstall it: pip install 'mteb>=2'") from None
    tasks = mteb_adapter.get_tasks(options.tasks, options.benchmark)
    results.check_writable(options.out / "mteb.json")
    model = load_model(options.checkpoint, use_prompts=True)
    for name, prompt in prompts(model.folder).items():
        say("prompt", f"{name}: {prompt!r}")
    found = mteb_adapter.run(
        model,
        tasks,
        options.out,
        data=options.data,
        precision=options.precision,
        check=not options.unchecked,
        overwrite=options.overwrite,
    )
    table.show_mteb(found)
    return 1 if found["failed"] else 0


def bench(arguments: list[str]) -> int:
    """Time training and the harness against their peers."""
    parser = _parser(
        "bench", "Time training against sentence-transformers, and scoring against mteb and SentEval's loop."
    )
    parser.add_argument(
        "checkpoint",
        nargs="?",
        default="asset:mini",
        help="of scoring, and backbone of training (default: %(default)s)",
    )
    parser.add_argument("--corpus", default="asset:wiki", help="sentences to train on (default: %(default)s)")
    parser.add_argument(
        "--length", type=int, default=64, help="most tokens of a sentence in training (default: %(default)s)"
    )
    parser.add_argument(
        "--steps", type=int, default=30, help="of training, 5 of them not counted (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="how many times everything is run (default: %(default)s)")
    parser.add_argument("--only", choices=("train", "eval"), help="one of the two (default: both)")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/bench.json"), help="default: %(default)s")
    _scoring(parser)
    options = parser.parse_args(arguments)
    quiet()
    from cse.evaluation import results
    from eval import bench as benching

    results.check_writable(options.out)
    found: dict[str, Any] = {}
    if options.only != "eval":
        found |= _bench_training(options)
    if options.only != "train":
        found |= _bench_scoring(options)
    benching.merge(found, options.out)
    for name, value in found.items():
        say(name, str(value))
    return 0


def _bench_training(options: argparse.Namespace) -> dict[str, Any]:
    from eval import bench_train

    return bench_train.run(
        options.checkpoint,
        options.corpus,
        steps=options.steps,
        rounds=options.rounds,
        precision=options.precision,
        length=options.length,
    )


def _bench_scoring(options: argparse.Namespace) -> dict[str, Any]:
    from cse.evaluation.harness import read_data
    from cse.evaluation.loading import load_model
    from eval import bench as benching

    data, missing = read_data(options.tasks, options.data, check=not options.unchecked)
    if missing:
        say("without", f"{', '.join(missing)}, whose data are missing")
    if not data:
        data, _ = read_data("sts-mini", None)
    return benching.run(load_model(options.checkpoint), data, options.rounds)


def report(arguments: list[str]) -> int:
    """Write the report of a folder of runs."""
    parser = _parser("report", "Read results and logs under a folder; write report.md and report.html.")
    parser.add_argument("runs", type=Path, nargs="?", default=Path("runs"), help="default: %(default)s")
    parser.add_argument("--out", type=Path, help="folder for the two files (default: the folder of runs)")
    parser.add_argument("--title", default="Results", help="of the page")
    parser.add_argument("--baseline", metavar="RECIPE", help="compare every method with this one, over seeds")
    options = parser.parse_args(arguments)
    from cse.evaluation import report as reporting
    from cse.evaluation import results
    from cse.evaluation.table import make_console

    out = options.out or options.runs
    results.check_writable(out / "report.html")
    found = reporting.write(options.runs, out, options.title, options.baseline)
    console = make_console()
    console.print(f"{len(found.entries)} results, {len(found.curves)} runs", highlight=False)
    for why in found.skipped:
        console.print(f"skipped: {why}", highlight=False, markup=False)
    console.print(f"{out / 'report.md'}\n{out / 'report.html'}", highlight=False, markup=False, soft_wrap=True)
    return 0


def reproduce(arguments: list[str]) -> int:
    """Train and score a recipe with several seeds."""
    parser = _parser("reproduce", "Train and score a recipe with several seeds, against the band that it declares.")
    parser.add_argument(
        "recipe", help="its name; what is left over are options of the recipe, as --trainer.max_steps=50"
    )
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 42 on (default: %(default)s)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where runs lie (default: %(default)s)")
    _scoring(parser, tasks=None)
    options, overrides = parser.parse_known_args(arguments)
    from cse.evaluation import results, suite
    from cse.recipe import load
    from eval import reproduce as reproducing

    options.tasks = options.tasks or load(options.recipe, overrides).expect.get("tasks", "sts-mini")
    suite.resolve(options.tasks)

    def into(checkpoint: Path, out: Path) -> None:
        found, similarities = scored(str(checkpoint), options)
        results.write(found, out, similarities)

    summary = reproducing.run(options.recipe, options.seeds, overrides, options.tasks, options.runs, into)
    sys.stdout.write("\n".join(reproducing.lines(summary)) + "\n")
    return 1 if summary["verdict"] == reproducing.OUTSIDE else 0


def tables(arguments: list[str]) -> int:
    """Write the generated tables of the documentation."""
    parser = _parser("tables", "Write the tables of the documentation, from eval/results/*.json.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if a table is not current")
    options = parser.parse_args(arguments)
    from eval import tables as generating

    changed = generating.write(options.check)
    for page in changed:
        sys.stdout.write(f"{'not current' if options.check else 'wrote':10s} {page.relative_to(generating.ROOT)}\n")
    return 1 if options.check and changed else 0


def _parser(command: str, description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=f"python -m eval {command}".strip(), description=description, allow_abbrev=False
    )


def _scoring(parser: argparse.ArgumentParser, tasks: str | None = "sts") -> None:
    """Options of whatever scores a checkpoint."""
    parser.add_argument("--tasks", default=tasks, help="tasks and groups, separated by commas (default: %(default)s)")
    parser.add_argument("--data", help="folder of <TASK>/<subset>.tsv, or SentEval's (default: CSE_DATA, then the Hub)")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"), help="auto: bf16 where native")
    parser.add_argument(
        "--folds", type=int, default=10, help="of transfer tasks (default: %(default)s; SentEval's quick: 5)"
    )
    parser.add_argument("--unchecked", action="store_true", help="score data that are not the known sets")


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "compare": compare,
    "mteb": mteb,
    "bench": bench,
    "report": report,
    "reproduce": reproduce,
    "tables": tables,
}
