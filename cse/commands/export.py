"""cse export: write a checkpoint as an ONNX graph."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from cse.console import say

VERB = "cse.inference.export:export"
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


def show(about: dict[str, Any], a: Namespace) -> None:
    """Print how well the graph agrees with the checkpoint."""
    from cse.inference.export import BATCHES, MODEL, SENTENCES

    size = sum(path.stat().st_size for path in a.out.glob(f"{MODEL}*")) / 1e6
    say("wrote", f"{a.out}   {MODEL}: {about['weights']}, {size:.1f} MB, {about['dim']} dimensions")
    sizes = ", ".join(str(min(n, len(SENTENCES))) for n in BATCHES)
    agrees = f"cosine {about['cosine']:.6f} or more with torch on {len(SENTENCES)} texts, in batches of {sizes}"
    say("checked", f"float32: {agrees}")
    if a.quantize:
        near = about["cosine_int8"]
        say("int8", f"cosine with torch {near['mean']:.4f} on average, {near['min']:.4f} at least")
        if near["mean"] < DOUBTFUL:
            say("warning", "the vectors have changed: score them before use, and keep float32 if the scores are lower")
        say("next", f"cse eval compare {a.checkpoint} {a.out} --tasks sts-mini    (measures the loss)")
