"""The command line: `cse COMMAND`, one file per command in cse/commands. Nothing heavy is imported until one runs."""

from __future__ import annotations

import argparse
import errno
import os
import re
import sys
from functools import cache, partial
from importlib import import_module
from io import TextIOWrapper
from itertools import takewhile
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, NoReturn

from cse import __version__, commands
from cse.errors import UserError
from cse.training import launch

REFUSED = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.ENOTDIR, errno.EISDIR}


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 2 for bad input, 1 for a failure, 3 at a cap, 130 if interrupted."""
    _open_streams()
    words = [_current_spelling(word) for word in (sys.argv[1:] if argv is None else argv)]
    parser = _parser(*words[:1])
    _require_no_dash(parser, words)
    arguments, rest = parser.parse_known_args(_with_action(words))
    if rest and not arguments.takes_overrides:
        parser.prog = f"cse {arguments.command}"
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        _require_paths(arguments, words)
        if launch.is_wanted(arguments):
            return launch.run(arguments.processes, words, partial(arguments.before, arguments, rest))
        launch.end_with_parent()
        code = int(arguments.run(arguments, rest))
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader has enough, as in `cse recipe list | head`; the flush at exit must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        if arguments.kept:
            print(f"stopped    {arguments.kept}", file=sys.stderr)  # noqa: T201
        return 130
    except Exception as error:
        said = str(error) if isinstance(error, UserError | FloatingPointError) else _refused_write(error)
        if said is None:
            raise
        print(f"cse: {launch.let_the_first_speak(said)}", file=sys.stderr)  # noqa: T201
        return 1 if isinstance(error, FloatingPointError) else 2


def _open_streams() -> None:
    """Let both streams take what is printed: a character that a terminal lacks is replaced, and a closed one is opened.

    Otherwise a file that is opened later would have the number of a closed stream.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


def _require_no_dash(parser: argparse.ArgumentParser, words: list[str]) -> None:
    """Refuse a value that would be read as an option; a number is none, and a text with spaces neither."""
    before = ""
    for word in takewhile(lambda word: word not in {"--", "--then"}, words):
        if re.fullmatch(r"-(?!(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$)[^-\s]\S+", word):
            fix = f"{before}={word}" if before.startswith("--") and "=" not in before else f"./{word}"
            parser.exit(2, f"cse: {word!r} begins with a dash, as an option does\nfix: write {fix}\n")
        before = word


def _require_paths(arguments: argparse.Namespace, words: list[str]) -> None:
    """Refuse an empty path, which would mean the folder that the command runs in."""
    if Path() in vars(arguments).values() and any(word == "" or word.endswith("=") for word in words):
        raise UserError("a path is empty\nfix: give a path; a variable of the shell may be unset")


def _refused_write(error: Exception) -> str | None:
    """Say what is wrong with a disk that cannot be written to, or a path; None if the error is another one."""
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return f"{str(error.filename)[:40]!r}... is too long for the name of a file\nfix: give a shorter path"
    full = "No space left on device" in str(error)  # the writers of torch and safetensors raise errors of their own
    if not full and not (isinstance(error, OSError) and error.errno in REFUSED):
        return None
    name = getattr(error, "filename2", None) or getattr(error, "filename", None) or "the disk"
    reason = "no space is left" if full else getattr(error, "strerror", str(error))
    return (
        f"{name} cannot be written: {reason}\n"
        "fix: make room, or choose another place, and run the same again; what was complete before is unchanged"
    )


class Parser(argparse.ArgumentParser):
    """Reports wrong usage in the shape of every other error: what, and the fix."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Keep the words, among which an option may be unknown where an argument is missing."""
        self.words = args or []
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Print two lines and exit with code 2."""
        options = [word.partition("=")[0] for word in self.words if word.startswith("--")]
        unknown = [option for option in options if option not in self._option_string_actions]
        if unknown and message.startswith("the following") and not self.get_default("takes_overrides"):
            message = f"unrecognized arguments: {unknown[0]}"
        self.exit(2, f"cse: {message}\nfix: `{self.prog} --help` shows the usage\n")


@cache
def _parser(*wanted: str) -> argparse.ArgumentParser:
    """The parser of all commands, with the options of those that are wanted."""
    parser = Parser(prog="cse", description="Train sentence embeddings.")
    parser.add_argument("--version", action="version", version=f"cse {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    names = [each.name for each in iter_modules(commands.__path__)]
    found: dict[str, Any] = {name: import_module(f"cse.commands.{name}") for name in names}
    found |= found.pop("verbs").COMMANDS
    for module, command in sorted(found.items()):
        name = module.replace("_", "-")
        epilog = getattr(command, "EPILOG", None)
        subparser = subparsers.add_parser(name, help=command.HELP, epilog=epilog, allow_abbrev=False)
        subparser.description = f"{command.HELP[0].upper()}{command.HELP[1:]}."
        if epilog and "\n" in epilog:
            subparser.formatter_class = argparse.RawDescriptionHelpFormatter
        if name in wanted and not hasattr(command, "run"):
            commands.declare(subparser, command.VERB, getattr(command, "NAMES", {}))
        if name in wanted and hasattr(command, "add_arguments"):
            command.add_arguments(subparser)
        subparser.set_defaults(
            run=getattr(command, "run", None) or partial(_run, command),
            before=getattr(command, "before_processes", lambda *_: None),  # checks what is the same in all of them
            takes_overrides=getattr(command, "TAKES_OVERRIDES", False),
            kept=getattr(command, "KEPT", ""),  # what Ctrl-C leaves, in words
        )
    return parser


def _run(command: Any, arguments: argparse.Namespace, _: list[str]) -> int:
    """Call the function that a command is, and print what it returned."""
    return command.show(commands.call(command.VERB, arguments), arguments) or 0


def _with_action(words: list[str]) -> list[str]:
    """`cse eval CHECKPOINT` as `cse eval score CHECKPOINT`: the first of a command's `ACTIONS` is the default."""
    command = sys.modules.get(f"cse.commands.{words[0]}") if len(words) > 1 else None
    actions = getattr(command, "ACTIONS", ())
    if not actions or words[1] in (*actions, "-h", "--help"):
        return words
    return [words[0], next(iter(actions)), *words[1:]]


def _current_spelling(word: str) -> str:
    """`--run_dir` as `--run-dir`, `--licence` as `--license`: the spellings of cse 0.1.0 are accepted until 0.2.

    Options of a recipe have a dot and stay as they are.
    """
    word = re.sub(r"^--[a-z_]+(?==|$)", lambda option: option[0].replace("_", "-"), word)
    return re.sub(r"^--licence(?==|$)", "--license", word)
