"""`python -m eval CHECKPOINT`, and `python -m eval COMMAND ...` for the rest."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cse.errors import UserError

if TYPE_CHECKING:
    from eval.compare import Scored

EXIT_USER_ERROR = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = COMMANDS.get(arguments[0]) if arguments else None
    try:
        return command(arguments[1:]) if command else score(arguments)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_USER_ERROR


def score(arguments: list[str]) -> int:
    """Score one checkpoint, print the table, write results.json."""
    parser = _parser("", f"Score a checkpoint. Other commands: {', '.join(COMMANDS)}.")
    parser.add_argument(
        "checkpoint", help="folder or Hub id of a checkpoint of ours, a SentenceTransformer or a plain model"
    )
    parser.add_argument("--out", type=Path, help="where to write results.json")
    _scoring(parser)
    options = parser.parse_args(arguments)
    from eval import results, table

    if options.out:
        results.check_writable(options.out)
    found, similarities = scored(options.checkpoint, options)
    table.show(found)
    if options.out:
        results.write(found, options.out, similarities)
    return 0 if found["tasks"] else 1


def scored(checkpoint: str, options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Results of a checkpoint and its pairs' similarities."""
    from eval import results, suite
    from eval.encoding import resolve_precision
    from eval.harness import evaluate
    from eval.loading import load_model

    suite.resolve(options.tasks)  # a typing error costs no loading
    _quiet()
    start = time.perf_counter()
    model = load_model(checkpoint)
    loading = time.perf_counter() - start
    outcome = evaluate(
        model.encoder,
        options.tasks,
        options.data,
        precision=options.precision,
        check=not options.unchecked,
        progress=sys.stderr.isatty(),
    )
    found = results.build(outcome, model.as_dict(), resolve_precision(model.encoder, options.precision))
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
    from eval import compare as comparing
    from eval import results

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
    from eval.compare import Scored

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
    _quiet()
    from eval import results, table
    from eval.loading import load_model, prompts

    try:
        from eval import mteb_adapter
    except ImportError as error:
        raise UserError(f"this command needs mteb: {error}.\nInstall it: pip install 'mteb>=2'") from None
    tasks = mteb_adapter.get_tasks(options.tasks, options.benchmark)
    results.check_writable(options.out / "mteb.json")
    model = load_model(options.checkpoint, use_prompts=True)
    for name, prompt in prompts(model.folder).items():
        mteb_adapter.print_progress(f"prompt {name}: {prompt!r}")
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
    """Time the harness against its peers."""
    parser = _parser("bench", "Time the harness against mteb.evaluate and a SentEval-like loop.")
    parser.add_argument("checkpoint", help="folder or Hub id of a model that sentence-transformers loads too")
    parser.add_argument("--rounds", type=int, default=3, help="how many times everything is run (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/bench.json"), help="default: %(default)s")
    _scoring(parser)
    options = parser.parse_args(arguments)
    _quiet()
    from eval import bench as benching
    from eval import results
    from eval.harness import read_data
    from eval.loading import load_model
    from eval.mteb_adapter import print_progress

    results.check_writable(options.out)
    data, missing = read_data(options.tasks, options.data, check=not options.unchecked)
    if missing:
        print_progress(f"without {', '.join(missing)}, whose data are missing")
    if not data:
        data, _ = read_data("sts-mini", None)
    found = benching.run(load_model(options.checkpoint), data, options.rounds, print_progress)
    benching.merge(found, options.out)
    for name, value in found.items():
        print_progress(f"{name:24s} {value}")
    return 0


def _parser(command: str, description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=f"python -m eval {command}".strip(), description=description, allow_abbrev=False
    )


def _scoring(parser: argparse.ArgumentParser) -> None:
    """Options of whatever scores a checkpoint."""
    parser.add_argument("--tasks", default="sts", help="tasks and groups, separated by commas (default: %(default)s)")
    parser.add_argument("--data", help="folder of <TASK>/<subset>.tsv, or SentEval's (default: CSE_DATA, then the Hub)")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"), help="auto: bf16 where native")
    parser.add_argument("--unchecked", action="store_true", help="score data that are not the known sets")


def _quiet() -> None:
    """Keep the libraries' loading reports and bars out of the output; errors still raise."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


COMMANDS: dict[str, Callable[[list[str]], int]] = {"compare": compare, "mteb": mteb, "bench": bench}
