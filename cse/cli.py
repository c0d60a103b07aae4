"""The command line: `cse COMMAND`, one file a command in cse/commands. Nothing heavy is imported until one runs."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pkgutil import iter_modules

from cse import __version__, commands
from cse.errors import UserError


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 2 for bad input, 1 for a failure, 3 at a cap, 130 if interrupted."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if rest and not arguments.takes_overrides:
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
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in sorted(module.name for module in iter_modules(commands.__path__)):
        command = import_module(f"cse.commands.{name}")
        subparser = subparsers.add_parser(name, help=command.HELP)
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run, takes_overrides=getattr(command, "TAKES_OVERRIDES", False))
    return parser
