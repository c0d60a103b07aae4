"""cse export: write a checkpoint as an ONNX graph."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "write a checkpoint as one ONNX graph that includes pooling and head"
KEPT = "nothing was written"
DOUBTFUL = 0.98  # mean cosine; no loss in STS was measured at 0.99 (a MiniLM), 19 points at 0.94 (asset:smollm2)
EPILOG = """\
The export runs without torch and transformers:

  import numpy as np, onnxruntime, tokenizers
  rows = tokenizers.Tokenizer.from_file("DIR/tokenizer.json").encode_batch([text.strip() for text in texts])
  feed = {"input_ids": np.array([r.ids for r in rows]), "attention_mask": np.array([r.attention_mask for r in rows])}
  # with prompts (see export.json): (prompt + text).strip() in place of text.strip()
  vectors = onnxruntime.InferenceSession("DIR/model.onnx").run(["embedding"], feed)[0]
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    parser.epilog, parser.formatter_class = EPILOG, argparse.RawDescriptionHelpFormatter
    add("checkpoint", help="a folder, asset:NAME or Hub id")
    add("--out", type=Path, required=True, help="the folder to write")
    add("--quantize", choices=["int8"], help="weights of 8 bits: a quarter of the size, but the vectors change")
    add("--dimensions", metavar="N", help="keep the first N dimensions of every vector")
    add("--pooler", help="pooler for a plain Hugging Face model (default: mean)")


def run(arguments: argparse.Namespace, _: list[str]) -> int:
    """Export the checkpoint, check the graph, and print the findings."""
    from cse.console import quiet, say
    from cse.encoder import widths
    from cse.encoder.model import Encoder
    from cse.encoder.poolers import POOLERS
    from cse.errors import UserError
    from cse.inference.export import BATCHES, MODEL, SENTENCES, export

    quiet()
    if arguments.pooler not in {None, *POOLERS}:
        raise UserError(f"--pooler is {arguments.pooler}, which does not exist\nfix: give one of {', '.join(POOLERS)}")
    out: Path = arguments.out
    dimensions = widths.parse_one(arguments.dimensions)
    encoder = Encoder.load(arguments.checkpoint, pooler=arguments.pooler)
    about = export(encoder, out, quantize=arguments.quantize, dimensions=dimensions)
    size = sum(path.stat().st_size for path in out.glob(f"{MODEL}*")) / 1e6
    say("wrote", f"{out}   {MODEL}: {about['weights']}, {size:.1f} MB, {about['dim']} dimensions")
    sizes = ", ".join(str(min(n, len(SENTENCES))) for n in BATCHES)
    agrees = f"cosine {about['cosine']:.6f} or more with torch on {len(SENTENCES)} texts, in batches of {sizes}"
    say("checked", f"float32: {agrees}")
    if arguments.quantize:
        near = about["cosine_int8"]
        say("int8", f"cosine with torch {near['mean']:.4f} on average, {near['min']:.4f} at least")
        if near["mean"] < DOUBTFUL:
            say("warning", "the vectors have changed: score them before use, and keep float32 if the scores are lower")
        say("next", f"cse eval compare {arguments.checkpoint} {out} --tasks sts-mini    (measures the loss)")
    return 0
