"""The commands of `cse`, one file for each; a new file is found without an edit elsewhere.

The file of a command has its name, and defines `HELP`, `add_arguments(parser)` and `run(arguments, overrides) -> exit
code`. It imports nothing heavy at the top, so that `cse --help` is quick. With `TAKES_OVERRIDES = True`, options of a
recipe are passed to `run`; otherwise they are errors. `ACTIONS` names the subcommands; the first one is the default.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cse.errors import UserError

TABLES = (".txt", ".csv", ".tsv", ".jsonl", ".parquet", ".gz")


def add_hardware(parser: argparse.ArgumentParser) -> None:
    """Declare --device and --precision, the same for every command that encodes."""
    add_device(parser)
    text = "auto is bf16 if the hardware computes it natively"
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto", help=text)


def add_device(parser: argparse.ArgumentParser) -> None:
    """Declare --device."""
    text = "auto is the accelerator of this machine, or the CPU"
    parser.add_argument("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto", help=text)


def add_shards(parser: argparse.ArgumentParser) -> None:
    """Declare --shard and --shards, the same for every command whose work can be cut."""
    one = "do one of N equal parts, counted from 1; each is complete or absent, and the last one may run first"
    parser.add_argument("--shard", metavar="I/N", help=one)
    every = "do N parts, shared by the processes of --processes, torchrun, srun or an array job of SLURM"
    parser.add_argument("--shards", type=int, metavar="N", help=every)


def two_texts(a: str, b: str, column: str, *, by_line: bool) -> tuple[bool, list[list[str]]]:
    """The texts of two arguments, each a text or a file of texts.

    Args:
        a: The first argument.
        b: The second one.
        column: The column of a table that holds the texts.
        by_line: Whether two files are compared line by line, and must have as many.

    Returns:
        Whether the arguments are files, and the texts of each.

    Raises:
        UserError: One is a file and the other is not, a file cannot be read, or files differ in length.
    """
    files = [_is_file(text) for text in (a, b)]
    if files[0] != files[1]:
        raise UserError(
            f"{[a, b][files.index(True)]!r} is a file and {[a, b][files.index(False)]!r} is not\n"
            "fix: give two sentences, or two files"
        )
    texts = [_texts(text, column) if files[0] else [text] for text in (a, b)]
    if by_line and len(texts[0]) != len(texts[1]):
        raise UserError(
            f"{a} has {len(texts[0]):,} rows and {b} has {len(texts[1]):,}\n"
            "fix: give files of equal length, which are compared row by row"
        )
    return files[0], texts


def _is_file(text: str) -> bool:
    """Whether an argument names a file. A name of a file that does not exist leads to an error when it is read."""
    named_so = not any(c.isspace() for c in text) and Path(text).suffix.lower() in TABLES
    return named_so or text.startswith("asset:") or (len(text) < 1024 and Path(text).is_file())


def _texts(path: str, column: str) -> list[str]:
    from cse.inference.encode import TextFile

    texts = TextFile.scan(path, column)
    return [text for block in texts.blocks(texts.rows) for text in block.texts]
