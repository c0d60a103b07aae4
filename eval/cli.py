"""`python -m eval COMMAND`: what we run on ourselves. Anything else is `cse eval ...`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cse import cli
from cse.commands.eval import add_scoring, scoring_options
from cse.console import quiet, say
from cse.errors import UserError, require_at_least


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = COMMANDS.get(arguments[0]) if arguments else None
    if command is None:
        return cli.main(["eval", *arguments])
    try:
        return command(arguments[1:])
    except UserError as error:
        sys.stderr.write(f"cse: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 130


def memory(arguments: list[str]) -> int:
    """Measure the memory and the start-up time of training and mining on generated pairs."""
    parser = _parser("memory", "Measure the memory and the start-up time of training and mining on generated pairs.")
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000], help="numbers of rows")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="numbers of processes that train")
    jobs = ["train", "mine"]
    parser.add_argument("--jobs", nargs="+", choices=jobs, default=jobs, help="what to measure (default: all)")
    out = "other numbers of rows and processes that it has stay; default: %(default)s"
    parser.add_argument("--out", type=Path, default=Path("eval/results/memory.json"), help=out)
    parser.add_argument("--note", default="", help="the conditions, kept in the file")
    options = parser.parse_args(arguments)
    quiet()
    from cse.files import check_writable
    from eval.memory import measure, measure_mining

    check_writable(options.out)
    if "train" in options.jobs:
        measure(options.rows, options.processes, options.out, options.note)
    if "mine" in options.jobs:
        measure_mining(options.rows, options.out, options.note)
    return 0


def scale(arguments: list[str]) -> int:
    """Encode generated texts in shards, kill a process, start again, compare, and search."""
    parser = _parser("scale", "Encode generated texts in shards, kill a process, start again, compare, and search.")
    parser.add_argument("--rows", type=int, default=1_000_000, help="number of texts (default: %(default)s)")
    parser.add_argument("--shards", type=int, default=4, help="number of shards (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="number of processes (default: %(default)s)")
    indexes = "indexes of faiss to compare with the exact search (default: %(default)s)"
    known = ["Flat", "IVF1024,PQ32np;nprobe=16", "IVF1024,PQ64np;nprobe=64"]
    parser.add_argument("--indexes", nargs="*", default=known, help=indexes)
    parser.add_argument("--out", type=Path, default=Path("eval/results/scale.json"), help="default: %(default)s")
    parser.add_argument("--note", default="", help="the conditions, kept in the file")
    options = parser.parse_args(arguments)
    quiet()
    from cse.files import check_writable
    from eval.scale import measure

    require_at_least(1, "scale", rows=options.rows, shards=options.shards, processes=options.processes)
    check_writable(options.out)
    measure(options.rows, options.shards, options.processes, options.indexes, options.out, options.note)
    return 0


def neighbors(arguments: list[str]) -> int:
    """Measure the search for neighbors by the number of rows."""
    parser = _parser("neighbors", "Measure the cost and the recall of `cse mine --index auto` by the number of rows.")
    sizes = [1_000_000, 2_000_000, 4_000_000, 8_000_000]
    parser.add_argument("--rows", type=int, nargs="+", default=sizes, help="numbers of rows (default: %(default)s)")
    out = Path("eval/results/neighbors.json")
    parser.add_argument("--out", type=Path, default=out, help="default: %(default)s")
    parser.add_argument("--note", default="", help="the conditions, kept in the file")
    options = parser.parse_args(arguments)
    from cse.files import check_writable
    from eval.neighbors import measure

    require_at_least(1_000, "neighbors", rows=min(options.rows))
    check_writable(options.out)
    measure(options.rows, options.out, options.note)
    return 0


def bench(arguments: list[str]) -> int:
    """Time training and the harness against their peers."""
    text = "Time training against sentence-transformers, and scoring against mteb and SentEval's loop."
    parser = _parser("bench", text)
    model = "the model to score, and the backbone to train (default: %(default)s)"
    parser.add_argument("checkpoint", nargs="?", default="asset:mini", help=model)
    parser.add_argument("--corpus", default="asset:wiki", help="sentences to train on (default: %(default)s)")
    parser.add_argument("--length", type=int, default=64, help="largest number of tokens in training (%(default)s)")
    parser.add_argument("--steps", type=int, default=30, help="training steps; the first 5 do not count (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds (default: %(default)s)")
    parser.add_argument("--only", choices=("train", "eval"), help="time only one of the two (default: both)")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/bench.json"), help="default: %(default)s")
    parser.add_argument("--machine", help="kind of machine, for the table of speed; kept in the file")
    add_scoring(parser)
    options = parser.parse_args(arguments)
    quiet()
    from cse.evaluation.evaluators import sts_rows
    from cse.files import check_writable
    from eval import bench as benching

    require_at_least(6, "bench", steps=options.steps)
    require_at_least(1, "bench", rounds=options.rounds)
    if options.tasks:
        sts_rows.resolve(options.tasks)
    check_writable(options.out)
    found: dict[str, Any] = {"machine": options.machine} if options.machine else {}
    if options.only != "eval":
        found |= _bench_training(options)
    if options.only != "train":
        found |= _bench_scoring(options)
    benching.merge(found, options.out)
    for name, value in found.items():
        say(name, str(value))
    return 0


def gpu_check(arguments: list[str]) -> int:
    """Run the GPU's tests, and measure training on it."""
    parser = _parser("gpu-check", "Run the tests that need a CUDA GPU, and measure training on it, in ten minutes.")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/gpu.json"), help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="rounds against sentence-transformers (%(default)s)")
    options = parser.parse_args(arguments)
    quiet()
    import torch

    from cse.files import check_writable
    from eval import gpu

    require_at_least(1, "gpu-check", rounds=options.rounds)
    if not torch.cuda.is_available():
        raise UserError(
            f"gpu-check: torch {torch.__version__} sees no CUDA GPU\nfix: run it on a machine with a GPU, and with a "
            "torch that was built for CUDA; `make bench` measures a CPU"
        )
    check_writable(options.out)
    gpu.check(options.out, rounds=options.rounds)
    return 0


def _bench_training(options: argparse.Namespace) -> dict[str, Any]:
    from eval import bench_train

    settings = {name: getattr(options, name) for name in ("steps", "rounds", "precision", "length")}
    return bench_train.run(options.checkpoint, options.corpus, **settings)


def _bench_scoring(options: argparse.Namespace) -> dict[str, Any]:
    from cse.evaluation.evaluators.sts import read_data
    from cse.evaluation.loading import load_model
    from eval import bench as benching

    data, missing = read_data(options.tasks or "sts", options.data, check=not options.unchecked)
    if missing:
        say("without", f"{', '.join(missing)}, whose data are missing")
    if not data:
        data, _ = read_data("sts-mini", None)
    return benching.run(load_model(options.checkpoint), data, options.rounds)


def reproduce(arguments: list[str]) -> int:
    """Train and score a recipe with several seeds."""
    parser = _parser("reproduce", "Train and score a recipe with several seeds, against the band that it declares.")
    parser.add_argument(
        "recipe", help="name of the recipe; further options are those of the recipe, such as --trainer.max_steps=50"
    )
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds, from 42 on (default: %(default)s)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs (default: %(default)s)")
    parser.add_argument("--folds", type=int, default=10, help="folds of transfer tasks (default: %(default)s)")
    add_scoring(parser)
    options, overrides = parser.parse_known_args(arguments)
    from cse.evaluation.evaluators import sts_rows
    from cse.evaluation.scoring import evaluate
    from cse.recipe import load
    from eval import reproduce as reproducing

    options.tasks = options.tasks or load(options.recipe, overrides).expect.get("tasks", "sts-mini")
    sts_rows.resolve(options.tasks)

    def into(checkpoint: Path, out: Path) -> None:
        progress = sys.stderr.isatty()
        evaluate(checkpoint, options.tasks, folds=options.folds, progress=progress, out=out, **scoring_options(options))

    summary = reproducing.run(options.recipe, options.seeds, overrides, options.tasks, options.runs, into)
    sys.stdout.write("\n".join(reproducing.lines(summary)) + "\n")
    return 1 if summary["verdict"] == reproducing.OUTSIDE else 0


def reproduce_paper(arguments: list[str]) -> int:
    """Train published recipes with several seeds, beside the published scores."""
    parser = _parser("reproduce-paper", "Train published recipes with several seeds, beside the published scores.")
    recipe = (
        "recipes, such as paper/simcse-unsup-bert-base (default: all of paper/); --OPTION=VALUE of a recipe go last"
    )
    parser.add_argument("recipes", nargs="*", help=recipe)
    parser.add_argument(
        "--plan", action="store_true", help="print steps, hours and memory by estimate, and run nothing"
    )
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds, from 42 on (default: %(default)s)")
    parser.add_argument("--processes", type=int, help="processes, and cards, of each run (default: one)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs (default: %(default)s)")
    parser.add_argument(
        "--data", metavar="DIR", help="folder with the rows of STS and transfer (default: CSE_DATA, Hub)"
    )
    parser.add_argument("--hub", type=Path, metavar="DIR", help="folder of repositories, DIR/owner/name, for the Hub's")
    parser.add_argument("--unchecked", action="store_true", help="take tasks with other numbers of rows")
    options, overrides = parser.parse_known_args(arguments)
    from cse import recipe as recipes
    from eval import paper

    names = options.recipes or [name for name in recipes.names() if name.startswith("paper/")]
    if options.plan:
        sys.stdout.write(paper.aligned(paper.plan(names)))
        return 0
    given = {"processes": options.processes, "data": options.data, "hub": options.hub, "unchecked": options.unchecked}
    found = [paper.run(name, options.seeds, options.runs, overrides=overrides, **given) for name in names]
    sys.stdout.write(paper.aligned(paper.rows(found)))
    return 0


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


def outcome(arguments: list[str]) -> int:
    """Compare what `cse adapt` and sentence-transformers make of the same start and pairs."""
    parser = _parser("outcome", "Compare what `cse adapt` and sentence-transformers make of the same start and pairs.")
    parser.add_argument("data", type=Path, help="a folder in the layout of BEIR, or with train.tsv and test.tsv")
    parser.add_argument("--encoder", required=True, metavar="MODEL", help="the folder of the encoder to start from")
    parser.add_argument("--steps", type=int, default=600, help="steps of 64 pairs to train (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44], help="default: 42 43 44")
    parser.add_argument("--out", type=Path, default=Path("runs/outcome"), help="default: %(default)s")
    parser.add_argument("--texts-only", action="store_true", help="train on the documents, or texts without labels")
    options = parser.parse_args(arguments)
    quiet()
    from eval.outcome import measure

    require_at_least(1, "outcome", steps=options.steps)
    measure(options.data, options.encoder, options.steps, options.out, options.seeds, texts_only=options.texts_only)
    return 0


def _parser(command: str, description: str) -> argparse.ArgumentParser:
    return cli.Parser(prog=f"python -m eval {command}", description=description, allow_abbrev=False)


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "bench": bench,
    "gpu-check": gpu_check,
    "memory": memory,
    "neighbors": neighbors,
    "outcome": outcome,
    "reproduce": reproduce,
    "reproduce-paper": reproduce_paper,
    "scale": scale,
    "tables": tables,
}
