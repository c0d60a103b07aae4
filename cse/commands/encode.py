"""cse encode: the lines of a file as vectors."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "turn the lines of a file into vectors"
EPILOG = "A command that was killed resumes after its last whole window if it is repeated, and writes the same file."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = EPILOG
    parser.add_argument("checkpoint", help="a folder, asset:NAME or Hub id")
    parser.add_argument("texts", help="a .txt, .csv, .tsv, .jsonl or .parquet file (text also .gz), or asset:NAME")
    parser.add_argument("--out", type=Path, required=True, help="a .npy or .parquet file of float32, one row a line")
    parser.add_argument("--column", default="text", help="of a table (default: %(default)s)")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto", help="auto: bf16 where native")
    parser.add_argument("--normalize", action="store_true", help="scale every vector to length 1")
    parser.add_argument("--dims", type=int, metavar="K", help="keep the first K components")
    parser.add_argument("--window", type=int, default=32_768, help="lines encoded and saved at a time (%(default)s)")


def run(arguments: argparse.Namespace, _: list[str]) -> int:
    """Encode and write."""
    from cse.console import progress, quiet, say

    quiet()
    import torch

    from cse.encoder.model import Encoder
    from cse.inference.encode import TextFile, check_out, encode_file

    check_out(arguments.out)
    texts = TextFile.scan(arguments.texts, arguments.column)
    blank = f", {texts.blank:,} of them blank, encoded as the empty text" if texts.blank else ""
    say("texts", f"{arguments.texts} {texts.rows:,} rows{blank}")
    encoder = Encoder.load(arguments.checkpoint).to("cuda" if torch.cuda.is_available() else "cpu")
    a = arguments
    options = {"precision": a.precision, "normalize": a.normalize, "dims": a.dims, "window": a.window}
    try:
        with progress("encoded", texts.rows) as advance:
            rows, dims = encode_file(encoder, texts, a.out, progress=advance, **options)
    except KeyboardInterrupt:
        say("stopped", "whole windows are saved; the same command resumes")
        return 130
    say("wrote", f"{arguments.out}   {rows:,} × {dims} float32")
    return 0
