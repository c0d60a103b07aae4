"""The command line: cse train | check | encode | push. Nothing heavy is imported until a command runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cse import __version__
from cse.errors import UserError

EPILOG = "Options of a recipe are given as --objective.init_args.temperature=0.1 --trainer.max_steps=50"


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 2 for bad input, 1 for a run that failed, 130 if interrupted."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if rest and arguments.command not in {"train", "check"}:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        return int(arguments.run(arguments, rest))
    except UserError as error:
        print(f"cse: {error}", file=sys.stderr)  # noqa: T201
        return 2
    except FloatingPointError as error:
        print(f"cse: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cse", description="Train sentence embeddings.")
    parser.add_argument("--version", action="version", version=f"cse {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    train = commands.add_parser("train", help="train a recipe, or go on with a run", epilog=EPILOG)
    train.add_argument("recipe", nargs="?", help="name in recipes/, or a YAML file")
    train.add_argument("--run_dir", type=Path, help="the run's folder; default runs/<recipe>/<stamp>-s<seed>")
    train.add_argument("--resume", type=Path, metavar="RUN", help="go on with this run's folder")
    train.set_defaults(run=_train)

    check = commands.add_parser("check", help="parse and validate recipes without training", epilog=EPILOG)
    check.add_argument("recipes", nargs="*", metavar="recipe", help="default: all")
    check.set_defaults(run=_check)

    encode = commands.add_parser("encode", help="turn the lines of a file into vectors")
    encode.add_argument("checkpoint", help="a folder, asset:NAME or Hub id")
    encode.add_argument("texts", type=Path, help="a text file, one text a line")
    encode.add_argument("--out", type=Path, required=True, help="a .npy file of float32, one row a line")
    encode.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    encode.set_defaults(run=_encode)

    whiten = commands.add_parser("whiten", help="append PCA whitening, fitted on sentences, to a checkpoint")
    whiten.add_argument("checkpoint", help="a folder, asset:NAME or Hub id")
    whiten.add_argument("--data", required=True, help="sentences to fit on: a file, asset:NAME or Hub id")
    whiten.add_argument("--columns", nargs="+", default=["text"], help="of a table; default: text")
    whiten.add_argument("--limit", type=int, help="rows to fit on; default: all")
    whiten.add_argument("--k", type=int, default=256, help="dimensions to keep; default: 256 (arXiv:2103.15316)")
    whiten.add_argument("--out", type=Path, required=True, help="the new checkpoint's folder")
    whiten.add_argument("--pooler", choices=["cls", "mean", "last"], help="of a plain Hugging Face model (mean)")
    whiten.set_defaults(run=_whiten)

    push = commands.add_parser("push", help="publish a checkpoint to the Hugging Face Hub")
    push.add_argument("checkpoint", type=Path, help="a run's best/ or last/")
    push.add_argument("repo", help="you/name")
    push.add_argument("--private", action="store_true")
    push.set_defaults(run=_push)
    return parser


def _train(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from cse.run import resume, start

    if (arguments.recipe is None) == (arguments.resume is None):
        raise UserError("cse train needs either a recipe or --resume RUN")
    if arguments.resume is not None:
        if overrides:
            raise UserError(f"--resume goes on with the run's own recipe; remove {' '.join(overrides)}")
        return resume(arguments.resume)
    return start(arguments.recipe, overrides, arguments.run_dir)


def _check(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from cse.recipe import load, names

    chosen = arguments.recipes or names()
    for name in chosen:
        load(name, overrides)
        print(f"ok         {name}")  # noqa: T201
    return 0


def _push(arguments: argparse.Namespace, _: list[str]) -> int:
    from cse.hub import push

    print(f"published  {push(arguments.checkpoint, arguments.repo, private=arguments.private)}")  # noqa: T201
    return 0


def _encode(arguments: argparse.Namespace, _: list[str]) -> int:
    from cse.run import encode

    return encode(arguments.checkpoint, arguments.texts, arguments.out, arguments.precision)


def _whiten(arguments: argparse.Namespace, _: list[str]) -> int:
    from cse.postprocess import whiten_checkpoint
    from cse.run import quiet, say

    quiet()
    a = arguments
    count, before = whiten_checkpoint(a.checkpoint, a.data, a.columns, a.k, a.out, limit=a.limit, pooler=a.pooler)
    say("wrote", f"{a.out}   whitened on {count:,} sentences, {before} -> {a.k} dimensions")
    return 0
