"""cse encode: encode the texts of a file as vectors."""

from __future__ import annotations

import argparse
from pathlib import Path

from cse.commands import add_hardware, add_shards
from cse.training import launch

HELP = "encode the texts of a file as vectors"
KEPT = "complete blocks are saved, and the same command resumes after them"
EPILOG = "If the command is killed, the same command resumes after the last complete block and writes the same file."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    each = "or LABEL=FOLDER,LABEL=FOLDER: best/ or last/ of LoRA runs over one backbone, for --label-column"
    add("checkpoint", help=f"a folder, asset:NAME or Hub id; {each}")
    add("texts", help="a .txt, .csv, .tsv, .jsonl or .parquet file, also as .gz, or asset:NAME")
    out = "a .npy or .parquet file; one row of float32 for each text. With shards: a folder, of .npy files"
    add("--out", type=Path, required=True, help=out)
    add("--column", default="text", help="column of a table (default: %(default)s)")
    labels = "column of labels, each of which names the adapter that encodes the text"
    add("--label-column", metavar="NAME", help=labels)
    add("--prompt", metavar="NAME", help="prompt of the checkpoint (default: its default prompt)")
    add_hardware(parser)
    add("--normalize", action="store_true", help="scale every vector to length 1")
    add("--dimensions", metavar="N", help="keep the first N dimensions of every vector")
    every = "number of texts that are encoded and saved at a time (default: %(default)s)"
    add("--save-every", type=int, metavar="N", default=32_768, help=every)
    windows = "read texts that are too long in windows that begin STEP tokens apart, instead of cutting them"
    add("--windows", type=int, metavar="STEP", help=windows)
    kinds = "write vectors of 8 bits (int8, uint8) or 1 bit (binary, ubinary) per dimension"
    add("--quantize", metavar="KIND", help=kinds)
    ranges = "ranges of the dimensions for 8 bits, measured on these texts if it does not exist"
    add("--calibration", type=Path, metavar="FILE", help=f"{ranges} (default: quantization.json in the checkpoint)")
    add_shards(parser)
    launch.add_argument(parser)


def run(arguments: argparse.Namespace, _: list[str]) -> int:
    """Encode the texts and write the vectors."""
    from cse.api.models import encode
    from cse.console import say
    from cse.encoder import widths
    from cse.inference.experts import parse
    from cse.inference.sharded import missing

    a = arguments
    options = {"device": a.device, "precision": a.precision, "normalize": a.normalize, "save_every": a.save_every}
    options |= {"quantize": a.quantize, "calibration": a.calibration, "windows": a.windows}
    options |= {"prompt": a.prompt, "dimensions": widths.parse_one(a.dimensions), "shard": a.shard, "shards": a.shards}
    model = parse(a.checkpoint) or a.checkpoint
    rows, size = encode(model, a.texts, a.out, column=a.column, label_column=a.label_column, **options)
    absent = missing(a.out) if a.shard or a.shards else []
    say("wrote", f"{a.out}   {rows:,} × {size} {a.quantize or 'float32'}")
    if absent:
        say("missing", f"{len(absent)} of {absent[0].of} shards: {', '.join(map(str, absent[:8]))}")
    return 0
