"""`python -m eval CHECKPOINT`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cse.errors import UserError

EXIT_USER_ERROR = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _score(arguments)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_USER_ERROR


def _score(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m eval", description="Score a checkpoint.", allow_abbrev=False)
    parser.add_argument(
        "checkpoint", help="folder or Hub id of a checkpoint of ours, a SentenceTransformer or a plain model"
    )
    parser.add_argument("--tasks", default="sts", help="tasks and groups, separated by commas (default: %(default)s)")
    parser.add_argument("--data", help="folder of <TASK>/<subset>.tsv, or SentEval's (default: CSE_DATA, then the Hub)")
    parser.add_argument("--out", type=Path, help="where to write results.json")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"), help="auto: bf16 where native")
    parser.add_argument("--unchecked", action="store_true", help="score data that are not the known sets")
    options = parser.parse_args(arguments)
    return score(options)


def score(options: argparse.Namespace) -> int:
    """Score one checkpoint and print the table."""
    from eval import results, suite, table
    from eval.encoding import resolve_precision
    from eval.harness import evaluate
    from eval.loading import load_model

    suite.resolve(options.tasks)  # a typing error costs no loading
    if options.out:
        results.check_writable(options.out)
    start = time.perf_counter()
    model = load_model(options.checkpoint)
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
    table.show(found)
    if options.out:
        results.write(found, options.out, results.similarities(outcome))
    return 0 if outcome.scores else 1
